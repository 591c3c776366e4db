"""phf train: what it writes, that a stop changes nothing, and that PEFT alone can load the result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from phfcli.core.flows import load_flow
from phfcli.core.names import OBJECTIVES
from phfcli.core.resources import embedded_problems

Phf = Callable[..., Any]

SMALL = ("--set", "batch_size=4", "--set", "rollout.max_new_tokens=48", "--quiet")
TIMES = ("seconds", "rollout_seconds", "tokens_per_s")


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def same_tensors(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_directory(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", run, *SMALL, "--json")
    assert done.code == 0
    assert done.json["checkpoint"] == str(run / "checkpoints" / "step-000002")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"], config["objective"], config["steps"]) == ("embedded", "phf", 2)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["problems"] == 4000
    assert len(manifest["model"]["sha256"]) == len(manifest["data"]["sha256"]) == 64
    assert {"torch", "transformers", "peft", "phfcli"} <= manifest["versions"].keys()
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert {"loss", "divergence", "flow", "clipped_entries", "clipped_tokens", "clip_share", "grad_norm"} <= lines[
        0
    ].keys()
    assert len(lines[0]["layer_energy"]) == 4
    flow = load_flow(run / "flows" / "step-000002.safetensors")
    assert flow.student.shape == flow.teacher.shape
    assert flow.student.shape[:2] == (4, 4)
    assert flow.layers.tolist() == [1, 2, 3, 4]


def test_peft_alone_loads_a_checkpoint(phf: Phf, tmp_path: Path) -> None:
    phf("train", "--steps", 1, "--output-dir", tmp_path / "run", *SMALL)
    folder = tmp_path / "run" / "checkpoints" / "step-000001"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): p for name, p in model.named_parameters() if "lora_" in name}
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains(phf: Phf, tmp_path: Path, objective: str) -> None:
    done = phf("train", "--objective", objective, "--steps", 2, "--output-dir", tmp_path / "run", *SMALL)
    assert done.code == 0
    moved = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "adapter_model.safetensors")
    assert any(t.abs().max() > 0 for name, t in moved.items() if "lora_B" in name)


@pytest.mark.parametrize("teacher", ["ema", "fixed", "online"])
def test_resuming_changes_nothing(phf: Phf, tmp_path: Path, teacher: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--teacher", teacher, "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 4, "--output-dir", whole, *options).code == 0
    assert phf("train", "--steps", 3, "--output-dir", cut, *options).code == 0
    last = cut / "checkpoints" / "step-000003"
    (last / "trainer.json").unlink()  # as a stop would leave it: step 2 is the newest complete one
    done = phf("train", "--steps", 4, "--output-dir", cut, "--resume", "--quiet")
    assert done.code == 0
    for name in ("adapter_model", "teacher", "optimizer"):
        file = f"checkpoints/step-000004/{name}.safetensors"
        assert same_tensors(whole / file, cut / file)
    assert metrics(whole) == metrics(cut)
    assert same_tensors(whole / "flows/step-000004.safetensors", cut / "flows/step-000004.safetensors")


@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_resuming_changes_nothing_without_a_teacher(phf: Phf, tmp_path: Path, objective: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--objective", objective, "--checkpoint-every", 1, *SMALL)
    assert phf("train", "--steps", 3, "--output-dir", whole, *options).code == 0
    assert phf("train", "--steps", 2, "--output-dir", cut, *options).code == 0
    assert phf("train", "--steps", 3, "--output-dir", cut, "--resume", "--quiet").code == 0
    for name in ("adapter_model", "optimizer"):
        file = f"checkpoints/step-000003/{name}.safetensors"
        assert same_tensors(whole / file, cut / file)
    assert not load_file(whole / "checkpoints/step-000003/teacher.safetensors")
    assert metrics(whole) == metrics(cut)
    assert not {"teacher_distance", "layer_energy"} & metrics(cut)[0].keys()
    assert not (cut / "flows").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "metric", "sign"), [("sft", "nll", -1), ("grpo", "reward", 1)])
def test_it_learns_on_the_embedded_model(phf: Phf, tmp_path: Path, objective: str, metric: str, sign: int) -> None:
    rows = embedded_problems("train").read_text().splitlines()[:4]
    data = tmp_path / "four.jsonl"
    data.write_text("\n".join(rows))
    options = ("--objective", objective, "--data", data, "--steps", 16, "--set", "batch_size=4", "--quiet")
    assert phf("train", *options, "--output-dir", tmp_path / "run").code == 0
    values = [line[metric] for line in metrics(tmp_path / "run")]
    assert sign * (sum(values[-5:]) - sum(values[:5])) / 5 > 0.08


def test_a_damaged_checkpoint_is_skipped_with_a_warning(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", run, *SMALL)
    damaged = run / "checkpoints" / "step-000002" / "optimizer.safetensors"
    before = metrics(run)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done = phf("train", "--output-dir", run, "--resume", "--steps", 2, "--quiet")
    assert done.code == 0
    assert "warning: checkpoint skipped" in done.err
    assert "optimizer.safetensors" in done.err
    assert metrics(run) == before


def test_a_finished_run_is_left_as_it_is(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    phf("train", "--steps", 1, "--output-dir", run, *SMALL)
    before = (run / "checkpoints/step-000001/adapter_model.safetensors").read_bytes()
    assert phf("train", "--output-dir", run, "--resume", "--quiet").code == 0
    assert (run / "checkpoints/step-000001/adapter_model.safetensors").read_bytes() == before
    done = phf("train", "--output-dir", run, "--quiet")
    assert done.code == 2
    assert "is not empty; go on with --resume" in done.err


def test_a_resumed_run_keeps_its_settings(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    phf("train", "--steps", 1, "--output-dir", run, *SMALL)
    done = phf("train", "--output-dir", run, "--resume", "--steps", 2, "--alpha", 0.5)
    assert done.code == 2
    assert "--resume: flow" in done.err
    assert len(metrics(run)) == 1


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_end(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--steps", "6", "--checkpoint-every", "1", *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "phfcli", "train", *options, "--resume", "--output-dir"]
    subprocess.run([*command, str(whole)], check=True, env=environment)
    for steps in (1, 3):
        running = subprocess.Popen([*command, str(cut)], env=environment)
        while not (cut / "metrics.jsonl").exists() or len((cut / "metrics.jsonl").read_bytes().splitlines()) < steps:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.wait()
    subprocess.run([*command, str(cut)], check=True, env=environment)
    assert metrics(whole) == metrics(cut)
    for name in ("adapter_model", "teacher", "optimizer"):
        file = f"checkpoints/step-000006/{name}.safetensors"
        assert same_tensors(whole / file, cut / file)


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


@pytest.mark.parametrize(("objective", "shown"), [("sft", {"student", "target"}), ("grpo", {"student"})])
def test_a_dry_run_without_a_teacher_counts_none(phf: Phf, objective: str, shown: set[str]) -> None:
    done = phf("train", "--objective", objective, "--dry-run", "--json")
    assert done.code == 0
    assert done.json["prompts"].keys() == shown
    assert not {"teacher", "captured states"} & done.json["memory_bytes"].keys()


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
    assert done.err.startswith("warning: not all can be shown")
    assert "the hub cannot be reached" in done.err
    assert done.err.count("\n") == 1
