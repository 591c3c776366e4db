"""The program `benchmarks/parity/run.py`: its figures by hand. TRL is no dependency, so its side is not run here."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "parity" / "run.py"


def test_the_difference_and_its_error_by_hand() -> None:
    compare = runpy.run_path(str(PROGRAM), run_name="benchmark")["_compare"]
    row = compare("grpo", [(0.70, 0.72), (0.74, 0.70)])
    assert row["difference"] == pytest.approx(0.01)
    # deviations 0.04 / sqrt 2 and 0.02 / sqrt 2, two seeds: sqrt((0.0008 + 0.0002) / 2)
    assert row["stderr"] == pytest.approx(0.0005**0.5)
    assert compare("sft", [(0.7, 0.7)])["stderr"] is None


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--trl-python", sys.executable, "--only", "ppo", "--folder", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == "--only ppo: choose of sft, grpo, opsd, not ppo\n"
    assert not any(tmp_path.iterdir())
