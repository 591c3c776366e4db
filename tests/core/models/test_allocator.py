"""What the heap keeps."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import torch
from phfcli.core.models.allocator import keep_large_blocks

if sys.argv[1] == "kept":
    keep_large_blocks()
for _ in range(10):
    [torch.ones(2_000_000) for _ in range(6)]
torch.ones(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [torch.ones(2_000_000) for _ in range(6)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is told")
def test_the_pages_of_a_freed_tensor_are_used_again() -> None:
    faults = {
        way: int(
            subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True).stdout
        )
        for way in ("kept", "given back")
    }
    assert faults["kept"] < faults["given back"] / 2
