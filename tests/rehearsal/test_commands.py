"""What follows a training, on the accelerator as on the CPU: evaluation, diagnosis, collection, probe, export."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretended_accelerator import CALLS, MEMORY

import phfcli as phf

On = Callable[..., str]


@pytest.fixture
def run(on: On, tmp_path: Path) -> Path:
    """Two steps on the accelerator, in float32."""
    sets = ("--set", "batch_size=4", "--set", "rollout.max_new_tokens=12", "--set", "dtype=float32")
    on("sim", "train", "--steps", 2, "--quiet", *sets, "--output-dir", tmp_path / "run")
    CALLS.clear()
    return tmp_path / "run"


def test_an_evaluation(on: On, run: Path) -> None:
    samples = []
    for device in ("sim", "cpu"):
        folder = run.parent / f"eval-{device}"
        words = ("--limit", 3, "--n", 2, "--engine", "transformers", "--set", "dtype=float32", "--quiet")
        on(device, "eval", run, *words, "--max-new-tokens", 12, "--output-dir", folder)
        lines = next(folder.rglob("samples.jsonl")).read_text().splitlines()
        samples.append([json.loads(line)["text"] for line in lines])
    assert CALLS
    assert samples[0] == samples[1]


def test_a_collected_flow_and_its_diagnosis(on: On, run: Path) -> None:
    for device in ("sim", "cpu"):
        words = ("collect", run, "--rollouts", run / "flows/step-000002.safetensors", "--set", "dtype=float32")
        on(device, *words, "-o", run.parent / f"{device}.safetensors", "--quiet")
    there, here = (json.loads(on("", "diagnose", run.parent / f"{d}.safetensors", "--json")) for d in ("sim", "cpu"))
    assert CALLS
    assert there["share"] == pytest.approx(here["share"], rel=1e-5)


def test_a_probe(on: On) -> None:
    words = ("probe", "embedded", "--problems", 2, "--n", 1, "--quiet", "--set", "dtype=float32", "--json")
    there, here = (json.loads(on(device, *words, "--set", "rollout.max_new_tokens=12")) for device in ("sim", "cpu"))
    assert CALLS
    assert there == here


def test_an_export_is_read(on: On, run: Path) -> None:
    on("", "export", run, "--merged", run.parent / "merged", "--quiet")
    words = ("--limit", 1, "--n", 1, "--engine", "transformers", "--max-new-tokens", 6, "--quiet")
    on("sim", "eval", run.parent / "merged", *words, "--output-dir", run.parent / "eval")
    assert CALLS


def test_what_trained_gives_its_memory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that vLLM has it, in the same process; and the caller's random state is untouched."""
    monkeypatch.chdir(tmp_path)
    before, state = MEMORY.held, torch.get_rng_state()
    settings = {"batch_size": 2, "rollout.max_new_tokens": 6, "device": "sim"}
    phf.train(model="embedded", steps=1, config=settings, progress=False, output_dir="run")
    gc.collect()
    assert MEMORY.held == before
    assert torch.equal(torch.get_rng_state(), state)
