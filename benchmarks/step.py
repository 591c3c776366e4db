"""An update of OPSD and PHF beside a plain one and TRL's: `python benchmarks/step.py [--lengths 128,512]`.

All read the same rollouts with the same model, a Qwen3 of 8 layers x 512 and a vocabulary of 151,936 in float32, with
LoRA r 64 and an EMA teacher; drawing the rollouts is left out of all. Losses are printed: where the work is the same,
they agree. TRL is run by `--peer-python`, an interpreter of an environment that has it; without TRL its row is empty.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.models import make_model, make_rollouts
from harness.processes import run_contender, scratch
from harness.tables import Table, mebibytes, spread

VOCABULARY = 151_936
CONTENDERS = {
    "phf, OPSD": ("own", "opsd"),
    "phf, PHF": ("own", "phf"),
    "plain, OPSD": ("plain", "opsd"),
    "plain, PHF": ("plain", "phf"),
    "TRL SDFT": ("trl_sdft", "opsd"),
}
Figures = dict[str, Any]


def measure_steps(lengths: list[int], repeats: int, threads: int, device: str, peer: str) -> Table:
    """A row for each contender and number of rollout tokens."""
    rows: list[list[str]] = []
    with scratch() as folder:
        model = make_model(folder / "model")
        for length in lengths:
            task = {
                "model": str(model),
                "device": device,
                "micro_batch_size": 2,
                "rollouts": make_rollouts(2, student=64, teacher=192, completion=length, vocabulary=VOCABULARY),
                "repeats": repeats,
                "threads": threads,
            }
            rows += _rows(length, {name: _figures(name, task, peer) for name in CONTENDERS})
    note = (
        "Batch of 2 samples, prompts of 64 (student) and 192 (teacher) tokens. Seconds of an update, rollouts "
        f"excluded, as median (range) of {repeats}; memory at its peak above the loaded model; ratios to the "
        "plain step of the same objective, and for PHF to our OPSD."
    )
    columns = [
        "rollout tokens",
        "update",
        "seconds",
        "of plain",
        "memory",
        "of plain",
        "of TRL",
        "PHF over OPSD",
        "loss",
    ]
    return Table("The update", note, columns, rows)


def _figures(name: str, task: dict[str, Any], peer: str) -> Figures | None:
    program, objective = CONTENDERS[name]
    if program == "trl_sdft" and not has_trl(peer):
        return None
    return run_contender(
        program, task | {"objective": objective}, python=peer if program == "trl_sdft" else sys.executable
    )


def has_trl(python: str) -> bool:
    """Whether that interpreter can import TRL's trainer."""
    return (
        subprocess.run([python, "-c", "import trl.experimental.sdft"], capture_output=True, check=False).returncode == 0
    )


def _rows(length: int, figures: dict[str, Figures | None]) -> list[list[str]]:
    rows = []
    for name, own in figures.items():
        if own is None:
            rows.append([str(length), name, *["-"] * 7])
            continue
        objective = CONTENDERS[name][1]
        plain, trl, opsd = figures[f"plain, {objective.upper()}"], figures["TRL SDFT"], figures["phf, OPSD"]
        over = ""
        if name == "phf, PHF":
            over = f"{_seconds(own) / _seconds(opsd) - 1:+.1%} time, {_memory(own) / _memory(opsd) - 1:+.1%} memory"
        cells = [
            f"{_seconds(own) / _seconds(plain):.2f}",
            mebibytes(_memory(own)),
            f"{_memory(own) / _memory(plain):.3f}",
        ]
        beside = "-" if trl is None else f"{_memory(own) / _memory(trl):.3f}"
        rows.append([str(length), name, spread(own["seconds"]), *cells, beside, over, f"{own['losses'][0]:.6f}"])
    return rows


def _seconds(figures: Figures | None) -> float:
    assert figures is not None
    return statistics.median(figures["seconds"])


def _memory(figures: Figures | None) -> float:
    assert figures is not None
    return float(figures["memory_bytes"])


def main(
    lengths: Annotated[str, typer.Option(help="Rollout tokens.")] = "128,512",
    repeats: Annotated[int, typer.Option(help="Measured updates, after one to warm up.")] = 3,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
    device: str = "cpu",
    peer_python: Annotated[Path, typer.Option(help="The interpreter that has TRL.")] = Path(sys.executable),
) -> None:
    """Measure the update against a plain implementation and TRL's SDFTTrainer."""
    measure_steps([int(length) for length in lengths.split(",")], repeats, threads, device, str(peer_python)).show()


if __name__ == "__main__":
    typer.run(main)
