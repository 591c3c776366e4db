"""phf bridge fit, and training with a teacher that is another model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trained import SMALL, metrics, same_tensors
from transformers import AutoConfig, AutoModelForCausalLM

from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]

FIT = ("bridge", "fit", "--rollouts", 10, "--set", "rollout.max_new_tokens=48", "--quiet")


def external(folder: Path) -> tuple[str, ...]:
    return ("--teacher", "external", "--set", f"teacher.model={folder}")


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """The embedded model under another name, with weights a little off."""
    folder = tmp_path / "twin"
    shutil.copytree(embedded_model(), folder)
    torch.manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w + 0.02 * torch.randn_like(w) for name, w in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.mark.slow
def test_a_bridge_is_fitted_and_trained_through(phf: Phf, tmp_path: Path, stranger: Path) -> None:
    done = phf(*FIT, "--teacher", stranger, "-o", "b.safetensors", "--plot", "rank.png", "--json")
    assert done.code == 0
    report = done.json
    assert (report["rank"], report["tokenizer"], report["layers"], report["teacher_layers"]) == (4, "other", [4], [6])
    assert report["pairs"] > report["held_out"] > 0
    assert [row["rank"] for row in report["by_rank"]] == [1, 2, 4, 8, 16, 32, 48]
    assert all(abs(row["before"]) < row["after"] <= 1 for row in report["by_rank"])
    assert report["by_rank"][-1]["explained"] == pytest.approx(1)
    assert (tmp_path / "rank.png").stat().st_size > 1000
    tensors = load_file(tmp_path / "b.safetensors")
    assert tensors["student.weight"].shape == (1, 4, 128)
    assert tensors["teacher.weight"].shape == (1, 4, 48)
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["phfcli"])
    assert about["teacher"]["name"] == str(stranger)
    assert len(about["student"]["sha256"]) == len(about["data"]["sha256"]) == 64

    run = tmp_path / "run"
    options = ("--objective", "oprd", "--set", "oprd.bridge=b.safetensors", *external(stranger))
    assert phf("train", *options, "--steps", 2, "--output-dir", run, *SMALL).code == 0
    lines = metrics(run)
    assert {"pointwise", "state_cosine"} <= lines[0].keys()
    assert not {"teacher_distance", "divergence"} & lines[0].keys()
    assert not (run / "flows").exists()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["teacher"]["sha256"] == about["teacher"]["sha256"]
    assert len(manifest["bridge"]["sha256"]) == 64
    assert not load_file(run / "checkpoints/step-000002/teacher.safetensors")

    refused(
        phf("train", *options, "--set", "oprd.mu=1", *SMALL), "next tokens cannot be compared", "set oprd.mu to null"
    )
    refused(phf(*FIT, "--teacher", stranger, "-o", "b.safetensors"), "b.safetensors: the file exists already")


@pytest.mark.slow
def test_fitting_again_gives_the_same_bridge(phf: Phf, tmp_path: Path, stranger: Path) -> None:
    for name in ("one", "two"):
        assert phf(*FIT, "--teacher", stranger, "--seed", 3, "-o", f"{name}.safetensors").code == 0
    assert same_tensors(tmp_path / "one.safetensors", tmp_path / "two.safetensors")


def test_the_table_is_shown_and_the_rank_by_tokenizer(phf: Phf, twin: Path) -> None:
    done = phf("bridge", "fit", "--rollouts", 10, "--teacher", twin, "-o", "b.safetensors", "--set", "oprd.layers=even")
    assert done.code == 0
    assert "blocks 2-2, 4-4" in done.out
    (kept,) = [line for line in done.out.splitlines() if line.rstrip().endswith("kept")]
    assert kept.split()[0] == "8"
    assert "same tokenizer" in done.out


@pytest.mark.slow
def test_a_bridge_to_another_teacher_is_refused(phf: Phf, tmp_path: Path, stranger: Path, twin: Path) -> None:
    assert phf(*FIT, "--teacher", twin, "-o", "b.safetensors").code == 0
    options = ("train", "--objective", "oprd", "--set", "oprd.bridge=b.safetensors", *SMALL)
    refused(
        phf(*options, *external(stranger)),
        f"oprd.bridge: {tmp_path / 'b.safetensors'} was fitted to the teacher",
        "sha256",
    )
    refused(phf(*options), "oprd.bridge", "teacher.model")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("objective", ["opd", "oprd", "opsd", "phf"])
def test_another_tokenizer_wants_a_bridge(phf: Phf, tmp_path: Path, stranger: Path, objective: str) -> None:
    done = phf("train", "--objective", objective, *external(stranger), *SMALL)
    refused(done, f"teacher.model: {stranger} has another tokenizer than embedded", "phf bridge fit", "oprd.bridge")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["oprd", "phf"])
def test_states_of_another_width_want_a_bridge_and_outputs_do_not(
    phf: Phf, capsys: pytest.CaptureFixture[str], tmp_path: Path, objective: str
) -> None:
    folder = tmp_path / "narrow"
    shutil.copytree(embedded_model(), folder)
    config = AutoConfig.from_pretrained(folder, hidden_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    capsys.readouterr()  # its progress bar
    refused(
        phf("train", "--objective", objective, *external(folder), *SMALL),
        "states of width 64, and those of embedded of 128; they need a bridge: fit one with `phf bridge fit`",
    )
    assert phf("train", "--objective", "opsd", *external(folder), "--steps", 1, *SMALL).code == 0


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--rank", 49, "rank: 49 is beyond the narrower model's width of 48"),
        ("-o", "bridge.bin", ".safetensors"),
        ("--teacher", "./nowhere", "no such model folder"),
        ("--set", "oprd.layers=[9]", "oprd.layers: 9 is beyond"),
        ("--plot", "x.gif", "--plot"),
    ],
)
def test_a_fit_that_cannot_be(phf: Phf, tmp_path: Path, stranger: Path, option: str, value: object, part: str) -> None:
    refused(phf(*FIT, "--teacher", stranger, "-o", "b.safetensors", option, value), part)
    assert list(tmp_path.iterdir()) == []


def test_an_external_teacher_without_its_model(phf: Phf) -> None:
    refused(phf("train", "--teacher", "external", "--quiet"), "set both teacher.kind=external and teacher.model")
    refused(phf("train", "--set", "teacher.model=x", "--quiet"), "set both teacher.kind=external and teacher.model")


@pytest.mark.slow
def test_an_external_teacher_teaches_and_resumes(phf: Phf, tmp_path: Path, twin: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--objective", "oprd", "--set", "oprd.mu=10", "--set", "opd.support=full")
    common = ("train", *options, *external(twin), *SMALL)
    assert phf(*common, "--steps", 2, "--output-dir", whole).code == 0
    assert phf(*common, "--steps", 1, "--output-dir", cut).code == 0
    done = phf("train", "--resume", "--steps", 2, "--output-dir", cut, "--quiet")
    assert (done.code, done.err) == (0, "")  # no checkpoint was skipped
    assert metrics(whole) == metrics(cut)
    assert metrics(cut)[0]["divergence"] > 0
    file = "checkpoints/step-000002/adapter_model.safetensors"
    assert same_tensors(whole / file, cut / file)
    assert not (whole / "flows").exists()


def test_a_dry_run_refuses_what_the_start_refuses(phf: Phf, stranger: Path) -> None:
    options = ("--objective", "oprd", *external(stranger))
    refused(phf("train", *options, "--dry-run"), "has another tokenizer", "phf bridge fit")
    assert phf("train", *options, "--dry-run").err == phf("train", *options, *SMALL).err


@pytest.mark.slow
def test_a_dry_run_shows_the_external_teacher(phf: Phf, stranger: Path) -> None:
    assert phf(*FIT, "--teacher", stranger, "-o", "b.safetensors").code == 0
    bridge = ("--objective", "oprd", "--set", "oprd.bridge=b.safetensors")
    done = phf("train", *bridge, *external(stranger), "--dry-run", "--json")
    assert done.code == 0
    assert done.json["prompts"].keys() == {"student", "teacher"}
    assert "reference" not in done.json["prompts"]["teacher"]
    assert done.json["memory_bytes"]["teacher"] == (stranger / "model.safetensors").stat().st_size  # which is mapped
