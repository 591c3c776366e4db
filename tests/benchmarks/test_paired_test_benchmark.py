"""The program that shows the size and the power of the paired test."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "paired_test.py"


def test_size_and_power_of_a_few_simulations() -> None:
    options = ["--simulations", "200", "--problems", "12", "--points", "2,25"]
    done = subprocess.run([sys.executable, PROGRAM, *options], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["size"] < 0.1
    assert told["power"]["2 points"] < told["power"]["25 points"]
