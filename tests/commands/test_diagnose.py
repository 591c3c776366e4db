"""phf diagnose, on a run that phf train has made, and on checkpoints that it reads anew."""

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phfcli.cli import main
from phfcli.core.names import ENERGIES

Phf = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training, made once."""
    folder = tmp_path_factory.mktemp("made") / "run"
    options = ["--steps", "2", "--checkpoint-every", "1", "--set", "batch_size=4", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["phf", "train", "--output-dir", str(folder), *options])
        with pytest.raises(SystemExit):
            main()
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def by_hand(tensors: dict[str, torch.Tensor]) -> list[float]:
    """Eq. 8 of each layer, from the tensors of a flow file, one rollout and one layer at a time."""
    energies = []
    for layer in range(len(tensors["layers"])):
        values = []
        for row in range(len(tensors["valid"])):
            m = int(tensors["valid"][row].sum())
            directions = []
            for reader in ("student", "teacher"):
                moves = tensors[reader][layer, row, :m].double().diff(dim=0)
                directions.append(moves / (moves.norm(dim=1, keepdim=True) + 1e-8))
            s, t = directions
            direction = (1 - (s * t).sum(1)).mean()
            geometry = (s @ s.T - t @ t.T).square().sum() / (m - 1) ** 2
            values.append((direction + geometry) / 2)
        energies.append(float(torch.stack(values).mean()))
    return energies


def test_shares_equal_a_computation_by_hand(phf: Phf, run: Path) -> None:
    report = phf("diagnose", run, "--json").json
    energies = by_hand(load_file(run / "flows" / "step-000002.safetensors"))
    share = [e / sum(energies) for e in energies]
    assert report["share"] == pytest.approx(share, rel=1e-3)
    assert report["entropy"] == pytest.approx(-sum(p * math.log(p) for p in share), rel=1e-5)
    assert report["max_entropy"] == pytest.approx(math.log(4))
    assert report["largest"] == {"layer": 1 + share.index(max(share)), "share": pytest.approx(max(share), rel=1e-3)}
    assert (report["step"], report["energy"], report["samples"]) == (2, "loss", 4)
    assert [r["step"] for r in report["steps"]] == [1, 2]


@pytest.mark.parametrize("energy", ENERGIES)
def test_each_energy_says_which_it_is(phf: Phf, run: Path, energy: str) -> None:
    done = phf("diagnose", run, "--energy", energy, "--csv", "layers.csv")
    assert done.code == 0
    assert f"energy     {energy}:" in done.out
    one = phf("diagnose", run / "flows" / "step-000001.safetensors", "--energy", energy, "--json").json
    assert (one["step"], sum(one["share"])) == (1, pytest.approx(1))
    rows = list(csv.DictReader((run.parent / "layers.csv").read_text().splitlines()))
    assert [(row["step"], row["layer"]) for row in rows] == [(s, layer) for s in "12" for layer in "1234"]
    assert [float(row["share"]) for row in rows[:4]] == pytest.approx(one["share"])
    assert rows[0]["energy"] == rows[0][f"energy_{energy}"]


def test_pictures_of_one_step_and_of_several(phf: Phf, run: Path) -> None:
    assert phf("diagnose", run, "--plot", "layers.png").code == 0
    assert (run.parent / "layers.png").read_bytes()[:4] == b"\x89PNG"
    for name, start in (("one.svg", b"<?xml"), ("one.pdf", b"%PDF")):
        assert phf("diagnose", run, "--steps", "1", "--plot", name).code == 0
        assert (run.parent / name).read_bytes().startswith(start)


def test_a_checkpoint_read_anew_says_what_its_saved_flow_says(phf: Phf, run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000002"
    saved = phf("diagnose", checkpoint, "--json").json
    collected = phf("diagnose", "--collect", checkpoint, "--save", "flow.safetensors", "--json").json
    again = phf("diagnose", "flow.safetensors", "--json").json
    assert (saved["step"], collected["step"], again["step"]) == (2, 2, None)
    for other in (collected, again):
        assert other["energies"] == pytest.approx(saved["energies"], rel=1e-4)
        assert other["entropy"] == pytest.approx(saved["entropy"], rel=1e-5)
        assert other["measures"]["cka"] == pytest.approx(saved["measures"]["cka"], rel=1e-3)
        assert [t["token"] for t in other["tokens"]] == [t["token"] for t in saved["tokens"]]


def test_a_checkpoint_of_all_weights_brings_its_teacher(phf: Phf, tmp_path: Path) -> None:
    sets = [part for setting in ("batch_size=4", "tuning=full") for part in ("--set", setting)]
    phf("train", "--steps", 1, "--output-dir", "run", "--quiet", *sets)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    saved = phf("diagnose", checkpoint, "--json").json
    done = phf("diagnose", "--collect", checkpoint, "--json")
    assert "its running average at this checkpoint" in done.err
    assert done.json["energies"] == pytest.approx(saved["energies"], rel=1e-4)


def test_new_rollouts_of_a_model_without_a_run(phf: Phf, problems_file: Path) -> None:
    short = ("--set", "rollout.max_new_tokens=24")
    done = phf("diagnose", "--collect", "embedded", "--data", problems_file, "--samples", 2, *short, "--json")
    assert (done.json["step"], done.json["samples"]) == (None, 2)
    assert f"2 new ones on {problems_file}; teacher: the model itself" in done.err.replace("\n", "")


def test_the_rollouts_of_one_checkpoint_under_the_weights_of_another(phf: Phf, run: Path) -> None:
    own = phf("diagnose", run, "--steps", 1, "--json").json
    other = phf("diagnose", "--collect", run, "--rollouts", run / "flows" / "step-000001.safetensors", "--json").json
    assert other["step"] == 2
    assert other["energies"] != own["energies"]
    assert other["energies"] == pytest.approx(own["energies"], rel=0.2)  # a step of training apart


def test_as_many_rollouts_are_saved_as_are_asked_for(phf: Phf, tmp_path: Path) -> None:
    sets = ("--set", "batch_size=4", "--set", "flow.saved_samples=3")
    phf("train", "--steps", 1, "--output-dir", "run", "--quiet", *sets)
    tensors = load_file(tmp_path / "run" / "flows" / "step-000001.safetensors")
    assert len(tensors["valid"]) == 3
    assert phf("diagnose", "run", "--json").json["energies"] == pytest.approx(by_hand(tensors), rel=1e-3)


def test_a_flow_of_the_first_version_is_read(phf: Phf, run: Path) -> None:
    new = run / "flows" / "step-000002.safetensors"
    tensors = load_file(new)
    old = {name: tensors[name] for name in ("student", "teacher", "positions", "valid", "layers")}
    save_file(old, run / "old.safetensors")
    reports = [phf("diagnose", file, "--json").json for file in (new, run / "old.safetensors")]
    assert reports[0]["energies"] == reports[1]["energies"]
    assert [bool(report["tokens"]) for report in reports] == [True, False]
    done = phf("diagnose", "--collect", run, "--rollouts", run / "old.safetensors")
    assert done.code == 2
    assert "version 1" in done.err


def test_a_flow_of_a_later_version_is_refused(phf: Phf, run: Path) -> None:
    path = run / "flows" / "step-000002.safetensors"
    save_file(load_file(path), run / "new.safetensors", {"version": "4"})
    done = phf("diagnose", run / "new.safetensors")
    assert done.code == 2
    assert "a flow file of version 4; this phf reads up to 3" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--steps", "7"), "no flow was saved at step 7; there are step-000001, step-000002"),
        (("run", "--steps", "x"), "expected numbers"),
        (("run", "--data", "embedded"), "--data: only with --collect"),
        (("run", "--gradients"), "--gradients: only with --collect"),
        (("run", "run", "--collect"), "one checkpoint, adapter or model at a time"),
        (("nowhere",), "no such run, checkpoint or flow file"),
        (("run/checkpoints/step-000001",), "no flow was saved with this checkpoint"),
        (("run/config.yaml",), "damaged or incomplete"),
        (("run/optimizer.safetensors",), "not a flow file"),
    ],
)
def test_what_cannot_be_diagnosed_is_told_in_a_line(phf: Phf, run: Path, arguments: tuple[str, ...], told: str) -> None:
    if "checkpoints" in arguments[0]:
        (run / "flows" / "step-000001.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, run / "optimizer.safetensors")
    done = phf("diagnose", *arguments)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1


def test_a_token_is_shown_as_text(phf: Phf, run: Path) -> None:
    path = run / "flows" / "step-000002.safetensors"
    tokens = phf("diagnose", path, "--json").json["tokens"]
    texts = {str(token["token"]): "\x1b[2J[red]" for token in tokens}
    save_file(load_file(path), path, {"version": "2", "texts": json.dumps(texts)})
    done = phf("diagnose", path)
    assert "[2J[red]" in done.out
    assert "\x1b" not in done.out


def test_the_ends_of_the_rollouts_are_in_table_and_json(phf: Phf, run: Path) -> None:
    found = phf("diagnose", run, "--json").json["state_cosine"]
    assert found["tokens"][0] == 1
    assert len(found["first"]) == len(found["last"]) == len(found["tokens"])
    lines = phf("diagnose", run).out.splitlines()
    for end in ("first", "last"):
        wanted = [end, *(f"{row[-1]:.4f}" for row in found[end])]
        assert wanted in [line.split() for line in lines]


def test_what_only_the_model_says_comes_with_collect(phf: Phf, run: Path) -> None:
    assert phf("diagnose", run, "--json").json["model"] is None
    files = ("--plot", "all.png", "--csv", "all.csv")
    found = phf("diagnose", "--collect", run, "--json", *files).json["model"]
    lens, outputs = found["lens"], found["outputs"]
    assert (found["temperature"], lens["shadow"], outputs["top"]) == (1.1, 1, 16)
    assert len(lens["entropy"]) == len(lens["likeliest"]) == 4
    assert lens["entropy"][-1] == pytest.approx(outputs["entropy_student"], rel=1e-4)  # all of the tokens are selected
    rows = list(csv.DictReader((run.parent / "all.csv").read_text().splitlines()))
    assert [float(row["lens_entropy"]) for row in rows] == lens["entropy"]
    done = phf("diagnose", "--collect", run)
    assert f"student {outputs['entropy_student']:.4f}, teacher {outputs['entropy_teacher']:.4f} nats" in done.out
    assert "block 1 is OISD's shadow" in done.out
    assert f"{found['attention']['divergence']:.4f} nats apart" in done.out


def test_attention_that_cannot_be_read_is_named_with_the_reason(phf: Phf, run: Path) -> None:
    last = ("--set", "oisd.layer=4")  # which lies below nothing
    found = phf("diagnose", "--collect", run, *last, "--json").json["model"]
    assert found["attention"] is None
    assert "must lie below the last" in found["no_attention"]
    assert "attention  not read: oisd.layer: must lie below" in phf("diagnose", "--collect", run, *last).out


def test_a_shadow_that_the_model_does_not_have_is_refused(phf: Phf, run: Path) -> None:
    done = phf("diagnose", "--collect", run, "--set", "oisd.layer=9")
    assert (done.code, done.err.splitlines()[-1]) == (2, "phf: oisd.layer: the model has 4 decoder blocks, got 9")


def test_gradients_of_each_loss_term(phf: Phf, run: Path) -> None:
    found = phf("diagnose", "--collect", run, "--gradients", "--plot", "all.png", "--json").json["model"]["gradients"]
    assert found.keys() == {"divergence", "flow"}
    twice = ("--set", "flow.alpha=0.1")
    again = phf("diagnose", "--collect", run, "--gradients", *twice, "--json").json["model"]["gradients"]
    assert again == {"divergence": pytest.approx(found["divergence"]), "flow": pytest.approx(2 * found["flow"])}
    singly = ("--set", "micro_batch_size=1")  # their counts are those of all rollouts
    apart = phf("diagnose", "--collect", run, "--gradients", *singly, "--json").json["model"]["gradients"]
    assert apart == {name: pytest.approx(norm, rel=1e-3) for name, norm in found.items()}


def test_an_objective_with_rewards_is_given_groups_of_new_rollouts(phf: Phf, tmp_path: Path) -> None:
    settings = ("batch_size=1", "grpo.group_size=4", "rollout.max_new_tokens=48")
    sets = [part for setting in settings for part in ("--set", setting)]
    phf("train", "--objective", "oisd", "--steps", 1, "--output-dir", "run", "--quiet", *sets)
    done = phf("diagnose", "--collect", tmp_path / "run", "--gradients", "--samples", 6)
    assert "8 new ones on embedded" in done.err.replace("\n", "")
    assert "norm of each loss term, with its weight: policy " in done.out
    assert {"think", "attention"} <= {word.strip(",") for word in done.out.split("its weight: ")[1].split()}


WHOLE = ("--set", "rollout.top_p=1", "--set", "rollout.top_k=0")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--set", "objective=sft"), "sft learns from references"),
        (("--set", "objective=grpo", *WHOLE), "grpo needs rewards"),
        (("--set", "objective=opd", *WHOLE, "--set", "rollout.ahead=1"), "rollout.ahead weighs tokens"),
    ],
)
def test_gradients_that_cannot_be_had_are_refused(phf: Phf, run: Path, options: tuple[str, ...], told: str) -> None:
    done = phf("diagnose", "--collect", run, "--gradients", *options)
    assert (done.code, f"--gradients: {told}" in done.err) == (2, True)


def test_gradients_of_layers_that_are_not_there_are_refused(phf: Phf, run: Path) -> None:
    done = phf("diagnose", "--collect", run, "--gradients", "--set", "flow.layers=[99]")
    assert (done.code, "flow.layers" in done.err.splitlines()[-1]) == (2, True)
