"""phf train with rollouts drawn a step ahead: what is recorded of it, and that a stop changes nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, metrics, same_end

Phf = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["grpo", "phf"])
def test_a_run_that_was_stopped_ends_bitwise_as_one_that_was_not(phf: Phf, tmp_path: Path, objective: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--objective", objective, "--set", "rollout.ahead=1", "--set", "optim.lr=0.01", *SMALL)
    assert phf("train", "--steps", 4, "--checkpoint-every", 2, *options, "--output-dir", whole).code == 0
    assert [line["staleness"] for line in metrics(whole)] == [0, 1, 1, 1]
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step-000004")
    assert (cut / "checkpoints/step-000002/ahead.safetensors").stat().st_size < 20_000  # a dozen bytes a token
    assert phf("train", "--output-dir", cut, "--resume", "--quiet").code == 0
    assert same_end(whole, cut, 4)
