"""Training runs of the tests: how they are started, and what of two runs must be the same."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from heeded_signals import heed_signals
from safetensors.torch import load_file

from phfcli.cli import main
from phfcli.core.reporting.training_charts import MAPS
from phfcli.core.runs.folder import checkpoints_of, step_name
from phfcli.core.step_metrics import CURVES, DETAILS, MACHINE_METRICS

SMALL = ("--set", "batch_size=4", "--set", "rollout.max_new_tokens=48", "--quiet")


def train_and_evaluate(run: Path) -> None:
    """Two steps of PHF with a checkpoint of each, and an evaluation of the last one on two problems."""
    torch.set_num_threads(1)
    for words in (
        ["train", "--steps", "2", "--checkpoint-every", "1", *SMALL, "--output-dir", str(run)],
        ["eval", str(run), "--limit", "2", "--n", "1", "--engine", "transformers", "--quiet"],
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["phf", *words])
            with pytest.raises(SystemExit) as exit_:
                main()
        assert exit_.value.code in (0, None)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without what was measured of the machine."""
    return _lines(run / "metrics.jsonl")


def undrawn(run: Path) -> set[str]:
    """Names in a run's metrics that phf has no picture of: a new metric has to get one."""
    return {name for line in json_lines(run / "metrics.jsonl") for name in line} - {
        "step",
        "seal",
        *CURVES,
        *DETAILS,
        *MAPS,
    }


def evaluations(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's evaluations in the course of training, without their time."""
    return _lines(run / "evaluations.jsonl")


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _lines(path: Path) -> list[dict[str, Any]]:
    unlike = {*MACHINE_METRICS, "seal"}
    return [{key: value for key, value in line.items() if key not in unlike} for line in json_lines(path)]


def same_tensors(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_near_weights(a: Path, b: Path) -> None:
    """Every file of weights in the checkpoints of `b` is in those of `a`, each of its entries within 1e-6."""
    files = [path.relative_to(b) for path in b.glob("checkpoints/*/*.safetensors")]
    assert files
    for file in files:
        tensors = load_file(b / file)
        for name, tensor in load_file(a / file).items():
            torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=1e-6)


def same_end(a: Path, b: Path, step: int) -> bool:
    """Whether two runs have the same metrics and, at a step, bitwise the same state."""
    files = [f"checkpoints/{step_name(step)}/{name}.safetensors" for name in ("adapter_model", "teacher", "optimizer")]
    return metrics(a) == metrics(b) and all(same_tensors(a / file, b / file) for file in files)


def checkpoint_steps(run: Path) -> list[int]:
    return [step for step, _ in checkpoints_of(run)]


def running(run: Path, *options: str) -> "subprocess.Popen[str]":
    """A real `phf train`, as a scheduler would start it."""
    command = [sys.executable, "-m", "phfcli", "train", *options, "--output-dir", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, preexec_fn=heed_signals, **pipes)


def wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    """Until the metrics of a step are on disk."""
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_bytes().splitlines()) < step:
        assert process.poll() is None
        time.sleep(0.02)


def without_sums(checkpoint: Path) -> None:
    """Takes the checksums out of a checkpoint, as one of an older version has none."""
    path = checkpoint / "trainer.json"
    state = json.loads(path.read_text())
    state.pop("sha256")
    path.write_text(json.dumps(state))
