"""phf collect, on checkpoints of a run and on models without one."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

Phf = Callable[..., Any]
OUT = ("-o", "flow.safetensors")


@pytest.mark.slow
def test_a_checkpoint_collected_anew_says_what_its_saved_flow_says(phf: Phf, run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000002"
    saved = phf("diagnose", checkpoint, "--json").json
    done = phf("collect", checkpoint, *OUT, "--json")
    assert (done.json["flow"], done.json["step"], done.json["rollouts"]) == ("flow.safetensors", 2, 4)
    again = phf("diagnose", "flow.safetensors", "--json").json
    assert (saved["step"], again["step"]) == (2, 2)
    assert again["energies"] == pytest.approx(saved["energies"], rel=1e-4)
    assert again["entropy"] == pytest.approx(saved["entropy"], rel=1e-5)
    assert again["measures"]["cka"] == pytest.approx(saved["measures"]["cka"], rel=1e-3)
    assert [t["token"] for t in again["tokens"]] == [t["token"] for t in saved["tokens"]]


@pytest.mark.slow
def test_micro_batches_make_one_flow(phf: Phf, run: Path) -> None:
    for size in (1, 4):
        phf("collect", run, "-o", f"by-{size}.safetensors", "--set", f"micro_batch_size={size}", "--quiet")
    one, four = (load_file(run.parent / f"by-{size}.safetensors") for size in (1, 4))
    for name in ("positions", "valid", "ids", "lengths", "layers"):
        assert one[name].tolist() == four[name].tolist()
    for name in ("student", "teacher", "lens_entropy"):
        assert one[name].shape == four[name].shape
    assert one["lens_entropy"].tolist() == pytest.approx(four["lens_entropy"].tolist(), rel=1e-3)


@pytest.mark.slow
def test_a_checkpoint_of_all_weights_brings_its_teacher(phf: Phf, tmp_path: Path) -> None:
    sets = [part for setting in ("batch_size=4", "tuning=full") for part in ("--set", setting)]
    phf("train", "--steps", 1, "--output-dir", "run", "--quiet", *sets)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    saved = phf("diagnose", checkpoint, "--json").json
    done = phf("collect", checkpoint, *OUT)
    assert "its running average at this checkpoint" in done.err
    assert phf("diagnose", "flow.safetensors", "--json").json["energies"] == pytest.approx(saved["energies"], rel=1e-4)


def test_new_rollouts_of_a_model_without_a_run(phf: Phf, problems_file: Path) -> None:
    short = ("--set", "rollout.max_new_tokens=24")
    done = phf("collect", "embedded", "--data", problems_file, "--samples", 2, *short, *OUT, "--json")
    assert (done.json["step"], done.json["rollouts"]) == (None, 2)
    assert done.json["origin"] == f"2 new ones on {problems_file}"
    assert "teacher: the model itself" in done.err.replace("\n", " ")
    assert phf("diagnose", "flow.safetensors", "--json").json["step"] is None


@pytest.mark.slow
def test_the_rollouts_of_one_checkpoint_under_the_weights_of_another(phf: Phf, run: Path) -> None:
    own = phf("diagnose", run, "--steps", 1, "--json").json
    assert phf("collect", run, "--rollouts", run / "flows" / "step-000001.safetensors", *OUT, "--quiet").err == ""
    other = phf("diagnose", "flow.safetensors", "--json").json
    assert other["step"] == 2
    assert other["energies"] != own["energies"]
    assert other["energies"] == pytest.approx(own["energies"], rel=0.2)  # a step of training apart


@pytest.mark.slow
def test_the_logit_lens_is_in_table_json_csv_and_picture(phf: Phf, run: Path) -> None:
    assert phf("diagnose", run, "--json").json["lens_entropy"] is None
    assert "lens entropy" not in phf("diagnose", run).out
    phf("collect", run, *OUT)
    lens = phf("diagnose", "flow.safetensors", "--json", "--plot", "all.png", "--csv", "all.csv").json["lens_entropy"]
    assert len(lens) == 4
    rows = list(csv.DictReader((run.parent / "all.csv").read_text().splitlines()))
    assert [float(row["lens_entropy"]) for row in rows] == lens
    out = phf("diagnose", "flow.safetensors").out
    assert "lens entropy" in out
    assert f"{lens[-1]:.3f}" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere/run", *OUT), "nowhere/run"),
        (("run",), "--output"),
        (("run", "-o", "flow.json"), "use a name that ends in .safetensors"),
        (("run", *OUT, "--rollouts", "nowhere.safetensors"), "nowhere.safetensors"),
        (("run", *OUT, "--set", "nonsense=1"), "nonsense"),
    ],
)
def test_what_cannot_be_collected_is_told_in_a_line(phf: Phf, run: Path, arguments: tuple[str, ...], told: str) -> None:
    done = phf("collect", *arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert told in done.err
    assert run.is_dir()
