"""The program `benchmarks/bridge.py`, run as a user would, on models that have hardly been pretrained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "bridge.py"


@pytest.mark.slow
def test_it_makes_two_models_and_trains_one_through_a_bridge(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    small = ["--pretraining", "0.003", "--seeds", "1", "--steps", "2", "--rollouts", "10", "--ranks", "4", "--n", "1"]
    command = [sys.executable, str(PROGRAM), str(tmp_path), *small]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("student    Average@1 ")
    assert "rank 4     cosine" in done.stdout
    assert "  gain     " in done.stdout
