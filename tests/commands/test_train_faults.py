"""phf train where numbers stop being finite: one line, the batch on disk, and the last good checkpoint as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from trained import SMALL, checkpoint_steps, without_sums

from phfcli.core.runs.folder import step_name

Phf = Callable[..., Any]


@pytest.mark.slow
def test_weights_that_are_not_finite_end_the_run_in_one_line(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    phf("train", "--steps", 1, "--output-dir", run, *SMALL)
    adapter = run / "checkpoints" / step_name(1) / "adapter_model.safetensors"
    weights = load_file(adapter)
    weights[max(weights)].fill_(float("inf"))  # the last of the last block
    save_file(weights, adapter)
    without_sums(adapter.parent)
    done = phf("train", "--resume", "--steps", 2, "--output-dir", run, "--quiet")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "the clip takes" not in line]
    assert line.startswith("phf: step 2: the loss is nan")
    assert line.endswith(f"the batch is in {run / 'faults' / step_name(2)}.json")
    assert checkpoint_steps(run) == [1]


def test_a_rate_that_breaks_the_weights_ends_the_run_in_one_line(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--set", "optim.lr=1e30", "--set", "optim.max_grad_norm=1e9")
    done = phf("train", "--steps", 3, "--output-dir", run, *SMALL, *options)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "the clip takes" not in line]
    assert "the norm of the trained weights is inf after the update (lower optim.lr)" in line
    (fault,) = (run / "faults").iterdir()
    saved = json.loads(fault.read_text())
    assert isinstance(saved["loss"], float)
    assert all(sample["text"] and "loss" not in sample for sample in saved["samples"])  # no weights to compute it with
    assert checkpoint_steps(run) == []
