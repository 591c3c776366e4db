"""Memory and time of `phf diagnose` on one large flow file: `python benchmarks/flow_file.py [--samples 64]`.

The file is made of noise (4.8 GB for 64 samples of the shape of Qwen3-8B), diagnosed by the real command in a process
of its own, and removed. Prints JSON; what it measured is in benchmarks/README.md.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, BinaryIO

import torch
import typer

BFLOAT16 = 2  # bytes


def main(
    layers: int = 36,
    positions: int = 128,
    width: int = 4096,
    samples: int = 64,
    folder: Annotated[Path, typer.Option(help="Where there is room for the file.")] = Path("/tmp"),
) -> None:
    """Diagnose a file of noise."""
    with TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "step-000100.safetensors"
        started = time.perf_counter()
        make(path, layers, samples, positions, width)
        made = time.perf_counter()
        command = [sys.executable, "-m", "phfcli", "diagnose", str(path), "--json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - made
        report = json.loads(done.stdout)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = {
            "shape": [layers, samples, positions, width],
            "file_bytes": path.stat().st_size,
            "making_seconds": round(made - started, 1),
            "diagnose_seconds": round(seconds, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_bytes": usage.ru_maxrss * 1024,
            "samples": report["samples"],
            "entropy": report["entropy"],
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        }
    print(json.dumps(result, indent=2))


def make(path: Path, layers: int, samples: int, positions: int, width: int) -> None:
    """Writes a flow file without ever holding it: a safetensors file is a length, a header in JSON, and the data."""
    shapes = {
        "student": ("BF16", (layers, samples, positions, width), BFLOAT16),
        "teacher": ("BF16", (layers, samples, positions, width), BFLOAT16),
        "positions": ("I32", (samples, positions), 4),
        "layers": ("I32", (layers,), 4),
        "valid": ("BOOL", (samples, positions), 1),
    }
    header, start = {}, 0
    for name, (dtype, shape, size) in shapes.items():
        end = start + torch.Size(shape).numel() * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for seed in (0, 1):
            noise(file, seed, layers * samples, positions, width)
        write(file, torch.arange(positions, dtype=torch.int32).repeat(samples))
        write(file, torch.arange(1, layers + 1, dtype=torch.int32))
        write(file, torch.ones(samples * positions, dtype=torch.bool))


def noise(file: BinaryIO, seed: int, blocks: int, positions: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(blocks):
        write(file, torch.randn(positions, width, generator=generator).bfloat16())


def write(file: BinaryIO, tensor: torch.Tensor) -> None:
    file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


if __name__ == "__main__":
    typer.run(main)
