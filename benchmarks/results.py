"""Every measurement of the training step, written to RESULTS.md: `python benchmarks/results.py` or `make bench`."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
import typer
from dry_run import measure_predictions
from family_memory import measure_families
from harness.processes import FOLDER
from limit import measure_limit
from offload import count_offloaded
from scaling import measure_commands, measure_long_rollouts, measure_loss_memory, measure_scaling
from step import has_trl, measure_steps
from whole_step import make_task, measure_whole_step

REAL = FOLDER.parent / "runs" / "real-model"
PACKAGES = ("phfcli", "torch", "transformers", "peft", "accelerate")


def main(
    peer_python: Annotated[Path, typer.Option(help="An interpreter that has TRL, for the peer's row.")] = Path(
        sys.executable
    ),
    output: Annotated[Path, typer.Option(help="The file to write.")] = FOLDER / "RESULTS.md",
    repeats: int = 3,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
    large: Annotated[bool, typer.Option(help="The model of 0.6 billion parameters as well.")] = True,
    real: Annotated[Path, typer.Option(help="What `make real-model` makes; without it no whole step.")] = REAL,
) -> None:
    """Run all and write the results; on a noisy machine let nothing else run."""
    tables = []
    measures = [
        lambda: measure_limit(repeats, threads),
        lambda: measure_steps([128, 512], repeats, threads, "cpu", str(peer_python)),
        lambda: measure_loss_memory(threads),
        lambda: measure_scaling(repeats, threads, "cpu"),
        lambda: measure_long_rollouts(threads, "cpu"),
        measure_commands,
        lambda: measure_predictions(threads, large),
        lambda: measure_families(threads, []),
        count_offloaded,
    ]
    if real.is_dir():
        model, data = real / "smollm2-135m-instruct", real / "problems" / "train.jsonl"
        task = make_task(model, data, "opsd", "float32", tokens=96, batch=16) | {"repeats": 1, "threads": threads}
        peer = str(peer_python) if has_trl(str(peer_python)) else None
        measures.insert(0, lambda: measure_whole_step(task, 5, peer))
    for measure in measures:
        tables.append(measure())
        tables[-1].show()
        output.write_text(f"{_head(threads)}\n" + "\n".join(table.markdown() for table in tables))


def _head(threads: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"""# What a training step costs

Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {_processor()}, {os.cpu_count()} cores, {threads} used,
{_memory()}; Python {platform.python_version()}, {versions}. {_gpu()} Times differ from run to run on a shared
machine; the ratios, measured in the same run, differ less.
"""


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory() -> str:
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return f"{total / 2**20:.0f} GiB of memory"


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "No GPU."


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


if __name__ == "__main__":
    typer.run(main)
