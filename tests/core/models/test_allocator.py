"""What the heap gives back."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import torch
from phfcli.core.models.allocator import return_large_blocks

if sys.argv[1] == "returned":
    return_large_blocks()
def held():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS")).split()[1])
torch.empty(40_000_000)  # from now on glibc would serve blocks of up to 32 MB from its heap
kept = []
before = held()
for _ in range(10):
    gone = torch.ones(5_000_000)
    kept.append(torch.ones(10))  # what lies above a freed block keeps the heap from shrinking
    del gone
    big = torch.ones(6_000_000)
    kept.append(big[:1].clone())
    del big
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is told")
def test_freed_tensors_are_no_longer_held() -> None:
    command = [sys.executable, "-c", PROGRAM, "returned"]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 20_000  # KiB; without it about 220,000
