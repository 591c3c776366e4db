"""The program `benchmarks/kill_train.py`, run as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kill_train.py"


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_the_same() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(PROGRAM), "--kills", "2", "--steps", "8"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 steps, bitwise the same after 2 stops" in done.stdout
