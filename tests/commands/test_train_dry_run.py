"""phf train --dry-run: the settings, the prompts and the memory of a run, and what cannot be shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import family, write

from phfcli.core.shipped_files import embedded_model, embedded_problems

Phf = Callable[..., Any]


@pytest.mark.slow
def test_a_dry_run_of_the_embedded_default(phf: Phf, tmp_path: Path) -> None:
    done = phf("train", "--dry-run", "--json")
    assert done.code == 0
    plan = done.json
    assert plan["settings"]["objective"] == "phf"
    assert "\\boxed{" in plan["prompts"]["student"]
    assert "reference solution" in plan["prompts"]["teacher"]
    assert plan["memory_bytes"]["total"] == sum(v for k, v in plan["memory_bytes"].items() if k != "total")
    assert plan["gaps"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "shown"), [("sft", {"student", "target"}), ("grpo", {"student"})])
def test_a_dry_run_without_a_teacher_counts_none(phf: Phf, objective: str, shown: set[str]) -> None:
    done = phf("train", "--objective", objective, "--dry-run", "--json")
    assert done.code == 0
    assert done.json["prompts"].keys() == shown
    assert not {"teacher", "captured states"} & done.json["memory_bytes"].keys()


@pytest.mark.slow
def test_a_dry_run_counts_no_problem_that_is_left_out(phf: Phf, tmp_path: Path) -> None:
    lines = embedded_problems("train").read_text().splitlines(keepends=True)[:4]
    long = json.loads(lines[0]) | {"id": "long", "problem": "add 12 " * 200}
    for name, rows in (("short", lines), ("both", [*lines, json.dumps(long)])):
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    plans = [
        phf("train", "--data", f"{name}.jsonl", "--set", "overlong=skip", "--dry-run", "--json").json
        for name in ("short", "both")
    ]
    assert plans[0]["phases"] == plans[1]["phases"]


@pytest.mark.parametrize(("tokens", "warned"), [(10, False), (100, True)])
def test_angles_that_follow_the_longest_sequence_of_a_batch_are_told(
    phf: Phf, tmp_path: Path, tokens: int, warned: bool
) -> None:
    """As those of Phi-3 with 128k do beyond 4,096 tokens; here beyond 160, and the longest prompt has 108."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope |= {"original_max_position_embeddings": 160, "factor": 4.0}
    model = write(family("phi3"), tmp_path / "model", rope_parameters=rope, original_max_position_embeddings=160)
    options = ("--model", model, "--data", "embedded", "--steps", 1, "--set", f"rollout.max_new_tokens={tokens}")
    done = phf("train", *options, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert any("rotary angles" in note and "more than 160 tokens" in note for note in done.json["notes"]) == warned


def test_grpo_refuses_rollouts_of_a_cut_distribution(phf: Phf) -> None:
    done = phf("train", "--objective", "grpo", "--set", "rollout.top_p=0.9", "--dry-run")
    assert done.code == 2
    assert "rollout.top_p" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("recipe", ["qwen3-1.7b", "qwen3-4b", "qwen3-8b"])
def test_a_dry_run_without_the_hub_says_so(phf: Phf, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = phf("train", "--config", recipe, "--dry-run")
    assert done.code == 0
    assert "lr: 5.0e-06" in done.out
    assert done.err.startswith("warning: some parts cannot be shown")
    assert "the hub cannot be reached" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="plans are for the accelerator that is there")
def test_a_large_model_is_planned_for_a_gpu_where_none_is(phf: Phf, tmp_path: Path) -> None:
    """It is a folder with config and tokenizer, on a node that prepares runs for others."""
    model = tmp_path / "large"
    shutil.copytree(embedded_model(), model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    layers = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (model / "config.json").write_text(json.dumps(config | layers | {"hidden_size": 4096, "vocab_size": 150_000}))
    options = ("--model", model, "--data", "embedded", "--set", "rollout.max_new_tokens=64", "--dry-run", "--json")
    plan, own = phf("train", *options).json, phf("train", *options, "--set", "device=cpu").json
    assert plan["machine"].startswith("a GPU, bfloat16 (of another machine")
    assert own["machine"] == "the CPU, float32"
    assert plan["memory_bytes"]["weights"] < 0.6 * own["memory_bytes"]["weights"]
    assert own["gpu_hours"] == {}
    for least, expected in plan["gpu_hours"]["H100"].values():
        assert 0 < least < expected
