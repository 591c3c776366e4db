"""Measures updates in processes of their own.

Each contender (`contenders/`) reads its task as JSON and prints its figures as JSON. Time is the wall clock of an
update, rollouts excluded; memory is the most that the process held during its updates, above what it held when the
model was ready.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from phfcli.core.training.metrics import peak_memory

FOLDER = Path(__file__).parents[1]


def measure(update: Callable[[], float], model: torch.nn.Module, repeats: int) -> dict[str, Any]:
    """Runs an update 1 + `repeats` times, the first to warm up; it returns its loss."""
    device = next(model.parameters()).device.type
    held = reset_peak(model)
    losses, seconds, cpu = [], [], []
    for _ in range(1 + repeats):
        started, used = time.perf_counter(), time.process_time()
        losses.append(update())  # a float: the device has finished
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    times = {"first": seconds[0], "seconds": seconds[1:], "cpu": cpu[1:]}
    return times | {"memory_bytes": peak(device) - held, "losses": losses}


def reset_peak(model: torch.nn.Module) -> int:
    """Forgets the peak so far; returns the bytes held now, all weights of the model among them."""
    for p in model.parameters():
        p.detach().sum()  # weights that are mapped from a file are only held once they have been read
    if p.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory must not hide what is taken afterwards
    Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def peak(device: str) -> int:
    """The most bytes held since the reset: of tensors on a GPU, of the whole process on a CPU."""
    return peak_memory(torch.device(device))


def run_contender(name: str, task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """The figures of one contender. Raises RuntimeError with the end of its output if it fails."""
    paths = os.pathsep.join(map(str, (FOLDER, FOLDER.parent, os.environ.get("PYTHONPATH", ""))))
    command = [python, str(FOLDER / "contenders" / f"{name}.py")]
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, input=json.dumps(task), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def read_task() -> dict[str, Any]:
    """What a contender is asked to do."""
    task: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    return task


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for models and runs, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="phf-bench-") as folder:
        yield Path(folder)


def run_phf(arguments: Sequence[str], threads: int) -> str:
    """What `phf ARGUMENTS` prints. Raises RuntimeError with the end of its output if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "phfcli", *arguments]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"phf {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The steps of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
