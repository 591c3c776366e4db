"""A whole step on a real model beside TRL's and its matrix products: `python benchmarks/whole_step.py MODEL DATA`.

The model is a folder (`make real-model`), the data problems with solutions. Each contender draws its own rollouts from
the same prompts. In each round every one runs in a fresh process, in turn; seconds are CPU seconds of the process, so
that what else the machine does counts little. The products are those of our own last step of the round.
"""

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.processes import run_contender
from harness.tables import Table, mebibytes, spread

from phfcli.core.config import PromptSettings
from phfcli.core.models.description import load_description
from phfcli.core.models.prompts import build_prompts

PHASES = ("rollouts", "teacher", "student", "loss", "backward", "update")
_NEW_TOKENS = "rollout.max_new_tokens"
Figures = dict[str, Any]


def measure_whole_step(task: dict[str, Any], rounds: int, peer: str | None) -> Table:
    """A row for each contender."""
    found: dict[str, list[Figures]] = {}

    def add(name: str, program: str, changes: dict[str, Any], python: str = sys.executable) -> Figures:
        figures = run_contender(program, task | changes, python)
        found.setdefault(name, []).append(figures)
        print(json.dumps({name: figures}), file=sys.stderr, flush=True)
        return figures

    for _ in range(rounds):
        own = add("phf", "own_step", {})
        add("products", "bare_step", {"useful": own["useful"]})
        if peer:
            add("TRL SDFT", "trl_step", {}, peer)
    rows = [_row(name, figures, found) for name, figures in found.items()]
    work = f"{task['objective']}, {task['dtype']}, {task['batch_size']} rollouts of up to {task[_NEW_TOKENS]} tokens"
    note = (
        f"{work}, one core: CPU seconds as median (range) of {rounds} x {task['repeats']} steps, phases as medians; "
        "memory at its peak above the loaded model."
    )
    columns = ["", "seconds", *PHASES, "tokens", "padding", "of products", "of TRL", "memory", "of TRL"]
    return Table("A whole step", note, columns, rows)


def _row(name: str, figures: list[Figures], found: dict[str, list[Figures]]) -> list[str]:
    def each(key: str, of: list[Figures] = figures) -> list[float]:
        return [step[key] for one in of for step in one["steps"] if key in step]

    def median(key: str, form: str = ".2f") -> str:
        return format(statistics.median(each(key)), form) if each(key) else ""

    def ratio(other: str) -> str:
        if other not in found:
            return ""
        pairs = zip(figures, found[other], strict=True)
        parts = [statistics.median(each("seconds", [a])) / statistics.median(each("seconds", [b])) for a, b in pairs]
        return spread(parts)

    memory = [one["memory_bytes"] for one in figures if "memory_bytes" in one]
    peers = [one["memory_bytes"] for one in found.get("TRL SDFT", [])]
    beside = f"{statistics.median(memory) / statistics.median(peers):.2f}" if memory and peers else ""
    held = mebibytes(statistics.median(memory)) if memory else ""
    parts = [median(phase) for phase in PHASES]
    counts = [median("tokens", ".0f"), median("padding", ".3f")]
    return [name, spread(each("seconds")), *parts, *counts, ratio("products"), ratio("TRL SDFT"), held, beside]


def make_task(model: Path, data: Path, objective: str, dtype: str, tokens: int, batch: int) -> dict[str, Any]:
    """What every contender is asked to do; the prompts are ours, as token ids."""
    prompts = build_prompts(load_description(str(model)).tokenizer, PromptSettings())
    problems = [json.loads(line) for line in data.read_text().splitlines()]
    return {
        "model": str(model),
        "data": str(data),
        "objective": objective,
        "dtype": dtype,
        "batch_size": batch,
        "micro_batch_size": batch,
        "rollout.max_new_tokens": tokens,
        "prompts": [[prompts.student(p["problem"]), prompts.teacher(p["problem"], p["solution"])] for p in problems],
    }


def main(
    model: Path,
    data: Path,
    objective: str = "opsd",
    dtype: str = "float32",
    tokens: Annotated[int, typer.Option(help="The most new tokens of a rollout.")] = 96,
    batch: int = 16,
    repeats: Annotated[int, typer.Option(help="Measured steps of a round, after one to warm up.")] = 1,
    rounds: int = 5,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
    peer_python: Annotated[Path | None, typer.Option(help="The interpreter that has TRL.")] = None,
) -> None:
    """Measure whole steps in turn."""
    task = make_task(model, data, objective, dtype, tokens, batch) | {"repeats": repeats, "threads": threads}
    measure_whole_step(task, rounds, str(peer_python) if peer_python else None).show()


if __name__ == "__main__":
    typer.run(main)
