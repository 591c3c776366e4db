"""What is measured of a process."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.step_metrics import PHASES
from phfcli.core.training.setup import build_trainer

PROGRAM = "import torch; from phfcli.core.training.metrics import peak_memory; print(peak_memory(torch.device('cpu')))"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="elsewhere the system has no such figure")
def test_a_process_started_by_a_larger_one_tells_its_own_peak() -> None:
    ballast = bytearray(12 * 10**8)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(ballast) / 2


def test_phases_of_a_step_are_told_apart_and_are_all_of_it(tmp_path: Path) -> None:
    """Whichever part becomes slow, it is that phase's seconds that grow."""
    pairs = ("data=embedded", "device=cpu", "batch_size=2", "micro_batch_size=1", "rollout.max_new_tokens=8", "steps=1")
    trainer = build_trainer(resolve_train(set_sources(pairs)), tmp_path / "run", fresh=True)
    trainer.teacher.run_pass = slow(trainer.teacher.run_pass)  # type: ignore[method-assign]
    (step,) = trainer.train()
    assert step["teacher_seconds"] > 0.4  # two micro-batches
    assert all(step[f"{phase}_seconds"] > 0 for phase in PHASES)
    assert sum(step[f"{phase}_seconds"] for phase in PHASES) == pytest.approx(step["seconds"])


def slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def later(*args: Any) -> Any:
        time.sleep(0.2)
        return function(*args)

    return later
