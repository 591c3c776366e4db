"""phf diagnose, on a run that phf train has made."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from refusals import refused
from safetensors.torch import load_file, save_file

import phfcli
from phfcli.core.names import ENERGIES
from phfcli.losses import layer_energies, layer_energy_share

Phf = Callable[..., Any]


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


@pytest.mark.slow
def test_pictures_of_one_step_and_of_several(phf: Phf, run: Path) -> None:
    assert phf("diagnose", run, "--plot", "layers.png").code == 0
    assert (run.parent / "layers.png").read_bytes()[:4] == b"\x89PNG"
    for name, start in (("one.svg", b"<?xml"), ("one.pdf", b"%PDF")):
        assert phf("diagnose", run, "--steps", "1", "--plot", name).code == 0
        assert (run.parent / name).read_bytes().startswith(start)


def test_a_chart_for_a_paper_has_text_that_stays_text(phf: Phf, run: Path) -> None:
    assert phf("diagnose", run, "--panel", "shares", "--plot", "shares.svg").code == 0
    picture = (run.parent / "shares.svg").read_text()
    assert "decoder block</text>" in picture
    width = re.search(r'width="([\d.]+)pt"', picture)
    assert width is not None
    assert float(width[1]) == pytest.approx(3.4 * 72)
    assert phf("diagnose", run, "--panel", "terms", "--plot", "terms.pdf").code == 0
    assert b"/Type3" not in (run.parent / "terms.pdf").read_bytes()
    refused(phf("diagnose", run, "--panel", "nope", "--plot", "x.svg"), "panel: nope is not there; there are shares,")
    refused(phf("diagnose", run, "--panel", "terms"), "give --plot FILE")


def test_two_runs_stand_side_by_side_with_their_names_and_one_scale(phf: Phf, run: Path) -> None:
    shutil.copytree(run, run.parent / "other")
    done = phf("diagnose", run, "other", "--plot", "both.svg", "--json").json
    assert [(step["run"], step["step"]) for step in done["steps"]] == [
        ("run", 1),
        ("run", 2),
        ("other", 1),
        ("other", 2),
    ]
    titles = (run.parent / "both.svg").read_text()
    assert "run, step 2: block" in titles
    assert "other, step 2: block" in titles
    report = phfcli.diagnose([run, run.parent / "other"])
    first, second, *_ = report.plot().axes
    assert first.get_ylim() == second.get_ylim()
    assert phf("diagnose", run, "other").out.count("Over the checkpoints") == 2


def test_a_chart_is_drawn_into_axes_of_ones_own_and_a_flow_is_loaded_in_three_lines(run: Path) -> None:
    axes = Figure().subplots()
    report = phfcli.diagnose(run)
    assert report.plot("terms", ax=axes) is axes.figure
    assert axes.get_ylabel() == "mean over rollouts"
    flow = phfcli.load_flow(run / "flows" / "step-000002.safetensors")
    energies = layer_energies(flow.student.float(), flow.teacher.float(), flow.valid)
    assert energies.tolist() == pytest.approx(by_hand(load_file(run / "flows" / "step-000002.safetensors")), rel=1e-3)
    assert layer_energy_share(energies).tolist() == pytest.approx(report.newest.share, rel=1e-3)


@pytest.mark.slow
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
    done = phf("collect", run, "--rollouts", run / "old.safetensors", "-o", "flow.safetensors")
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
        (("run", "--collect"), "here it is `phf collect MODEL -o FLOWS`"),
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
