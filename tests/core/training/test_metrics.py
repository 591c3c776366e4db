"""What is measured of a process."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "import torch; from phfcli.core.training.metrics import peak_memory; print(peak_memory(torch.device('cpu')))"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="elsewhere the system has no such figure")
def test_a_process_started_by_a_larger_one_tells_its_own_peak() -> None:
    ballast = bytearray(12 * 10**8)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(ballast) / 2
