"""vLLM is used from any Python program, however that is started and wherever in it the call stands."""

import subprocess
import sys
from pathlib import Path

from vllm_server import NEEDS_VLLM

pytestmark = NEEDS_VLLM

PROGRAM = """
import asyncio, random, threading
import torch
import phfcli as phf

async def in_a_loop():
    return phf.evaluate("embedded", "embedded-dev", n=1, limit=2, engine="vllm", progress=False, output_dir="out")

torch.manual_seed(1)
random.seed(1)
thread = threading.Thread(target=lambda: print(asyncio.run(in_a_loop()).average))
thread.start()
thread.join()
drawn = torch.rand(1).item(), random.random()
torch.manual_seed(1)
random.seed(1)
print(drawn == (torch.rand(1).item(), random.random()))
"""


def test_a_program_from_stdin_evaluates_in_a_thread_and_a_running_loop(tmp_path: Path) -> None:
    """vLLM's own processes must not run the program again, and the caller's random state is as before."""
    done = subprocess.run(
        [sys.executable, "-"], input=PROGRAM, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=300
    )
    average, same_state = done.stdout.splitlines()
    assert 0 <= float(average) <= 1
    assert same_state == "True"
