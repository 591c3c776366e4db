"""phf train where all weights train: a checkpoint is a plain model, which resumes, is evaluated and exported."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import SMALL, checkpoint_steps, metrics, same_tensors, without_sums
from transformers import AutoModelForCausalLM

from phfcli.core.runs.folder import step_name
from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]

FULL = ("--set", "tuning=full", "--set", "divergence.clip=null", "--set", "optim.lr=1e-4", *SMALL)


@pytest.mark.slow
def test_all_weights_train_and_resuming_changes_nothing(phf: Phf, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert phf("train", "--steps", 3, "--checkpoint-every", 1, "--output-dir", whole, *FULL).code == 0
    shutil.copytree(whole, cut)
    last = cut / "checkpoints" / step_name(3)
    os.truncate(last / "model.safetensors", 1000)
    done = phf("train", "--resume", "--output-dir", cut, "--quiet")
    assert done.code == 0
    assert done.err.startswith(
        f"warning: checkpoint skipped: {last}/model.safetensors: damaged: its content is not what was written"
    )
    assert done.err.count("\n") == 1
    assert checkpoint_steps(cut) == [1, 2, 3]
    for name in ("model", "state/teacher", "state/optimizer"):
        file = f"checkpoints/{step_name(3)}/{name}.safetensors"
        assert same_tensors(whole / file, cut / file)
    assert metrics(whole) == metrics(cut)

    base, trained = (load_file(folder / "model.safetensors") for folder in (embedded_model(), last))
    assert base.keys() == trained.keys()  # tied: no head of its own
    assert all(not torch.equal(base[name], trained[name]) for name in base)

    # the average, from the weights of every step: theta_bar <- rho theta_bar + (1 - rho) theta
    mean = base
    for step in (1, 2, 3):
        now = load_file(whole / "checkpoints" / step_name(step) / "model.safetensors")
        mean = {name: torch.lerp(mean[name], now[name], 1 - 0.999) for name in mean}
    saved = load_file(last / "state" / "teacher.safetensors")
    assert mean.keys() == saved.keys()
    assert all(torch.equal(mean[name], saved[name]) for name in mean)


@pytest.mark.slow
def test_a_checkpoint_of_all_weights_is_a_plain_model(phf: Phf, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "exported"
    phf("train", "--steps", 1, "--output-dir", run, *FULL)
    folder = run / "checkpoints" / step_name(1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())
    assert phf("export", run, "--merged", out, "--quiet").code == 0
    assert same_tensors(folder / "model.safetensors", out / "model.safetensors")

    options = ("--engine", "transformers", "--limit", 2, "--n", 1, "--json", "--quiet")
    (summary,) = phf("eval", run, *options).json["benches"]
    assert (summary["target"], summary["step"]) == ("run", 1)
    assert Path(summary["folder"]).resolve() == run / "evals" / "step-000001" / "embedded-n1"
    for words, damage in {
        "a model without its weights (model.safetensors is missing)": lambda file: file.unlink(),
        "damaged": lambda file: os.truncate(file, 1000),
    }.items():
        copy = tmp_path / "copy" / "checkpoints" / step_name(1)
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        damage(copy / "model.safetensors")
        done = phf("eval", copy, *options)
        assert (done.code, words in done.err) == (2, True)


@pytest.mark.slow
def test_weights_stay_in_float32_where_bfloat16_is_computed(phf: Phf, tmp_path: Path) -> None:
    for name in ("float32", "bfloat16"):
        done = phf("train", "--steps", 2, "--output-dir", tmp_path / name, *FULL, "--set", f"dtype={name}")
        assert done.code == 0
    one, other = (metrics(tmp_path / name)[0] for name in ("float32", "bfloat16"))
    assert other["divergence"] == pytest.approx(one["divergence"], rel=0.02)
    assert other["divergence"] != one["divergence"]
    file = tmp_path / "bfloat16" / "checkpoints" / step_name(2) / "model.safetensors"
    trained, base = load_file(file), load_file(embedded_model() / "model.safetensors")
    assert {value.dtype for value in trained.values()} == {torch.float32}
    steps = torch.cat([(trained[name] - base[name]).flatten() for name in base]).abs()
    assert 0 < steps.median() < 3e-4  # of two steps at 1e-4, which bfloat16 would have rounded away


def test_weights_of_another_model_are_refused_and_stay(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    phf("train", "--steps", 1, "--output-dir", run, *FULL)
    file = run / "checkpoints" / step_name(1) / "model.safetensors"
    weights = load_file(file)
    del weights[max(weights)]
    save_file(weights, file, {"format": "pt"})
    without_sums(file.parent)
    done = phf("train", "--resume", "--output-dir", run, "--quiet")
    assert done.code == 2
    assert "not a checkpoint of this model: weights are missing" in done.err
    assert file.is_file()


def test_a_server_cannot_follow_all_weights(phf: Phf) -> None:
    done = phf("train", "--engine", "http://localhost:1", *FULL)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a server loads adapters only" in done.err
