"""What the heap keeps."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from phfcli.core.models.device import keep_large_blocks

keep_large_blocks()
for _ in range(10):
    [torch.ones(2_000_000) for _ in range(6)]
torch.ones(10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    [torch.ones(2_000_000) for _ in range(6)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap is told")
def test_the_pages_of_a_freed_tensor_are_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50 * 6 * 8_000_000 / 4096 / 4  # of its pages
