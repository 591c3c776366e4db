"""`benchmarks/flow_by_answer.py` splits the rollouts of a flow into right and wrong ones."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import phf

__all__ = ["phf"]

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "flow_by_answer.py"


@pytest.mark.slow
def test_right_and_wrong_rollouts_make_up_all_and_others_are_refused(phf: Callable[..., Any], tmp_path: Path) -> None:
    flows = tmp_path / "flows.safetensors"
    assert phf("collect", "embedded", "--data", "embedded", "--samples", 16, "-o", flows).code == 0
    command = [sys.executable, str(PROGRAM), str(flows), "--model", "embedded", "--data", "embedded"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    right, wrong = found["right"], found["wrong"]
    assert right["rollouts"] + wrong["rollouts"] == found["all"]["rollouts"] == 16
    assert min(right["rollouts"], wrong["rollouts"]) > 0  # the embedded model solves about half
    together = sum(own["rollouts"] * own["mean_energy"] for own in (right, wrong)) / 16
    assert together == pytest.approx(found["all"]["mean_energy"], abs=2e-5)
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "2 + 2 = ?", "answer": "4", "solution": "4"}\n')
    refused = subprocess.run([*command[:-1], str(other)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "16 of 16 rollouts answer no problem of" in refused.stderr
