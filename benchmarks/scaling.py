"""How time and memory grow, of an update and of the commands around it: `python benchmarks/scaling.py`.

One thing is changed at a time: rollout tokens, layers, batch, ranks; rows of a data set, samples of an evaluation. The
loss alone is measured too: beyond its hidden states and their gradient its memory does not grow with the number of
tokens. A slope is that of the logarithms between the least and the largest value: 1 is linear.
"""

import argparse
import json
import math
import os
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from around import thinking, write_evaluation
from harness.commands import command_cost
from harness.models import make_model, make_rollouts
from harness.processes import metrics_of, peak, reset_peak, run_contender, run_phf, scratch
from harness.tables import Table, mebibytes

from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.models.device import keep_large_blocks

VOCABULARY = 151_936
BASE = {"tokens": 256, "layers": 4, "batch": 2}
CHANGES = {"tokens": (64, 256, 1024), "layers": (2, 4, 8), "batch": (1, 2, 4)}
GROWTH = ("quantity", "value", "seconds", "memory", "slope of time", "slope of memory")
WIDTH = 256
ROWS = (100, 10_000, 30_000)  # of a data set, its solutions as long as a published one's
SOLUTION_TOKENS = 2300  # some 9,200 characters
SAMPLES = (16, 64, 256)  # of each of 30 problems, 4,864 tokens each
LONG = (1024, 4096, 16_384)  # tokens of one rollout
LONG_LAYERS, LONG_WIDTH, LONG_HEAD, LONG_VOCABULARY = 36, 128, 32, 8192  # as deep as Qwen3-4B


def measure_scaling(repeats: int, threads: int, device: str) -> Table:
    """A row for each value of each quantity, the others at their base."""
    rows = []
    with scratch() as folder:
        for name, values in CHANGES.items():
            costs = []
            for value in values:
                figures = _update(folder, BASE | {name: value}, repeats, threads, device)
                costs.append((statistics.median(figures["seconds"]), figures["memory_bytes"]))
            rows += _growth(name, values, costs)
        rows += _growth("ranks", (1, 2), [_with_ranks(folder, count, threads) for count in (1, 2)])
    base = ", ".join(f"{value} {name}" for name, value in BASE.items())
    note = (
        f"PHF's update on a Qwen3 of width {WIDTH}, vocabulary {VOCABULARY:,}; at the base {base}, prompts of 64 and "
        f"192 tokens. Seconds are medians of {repeats}; memory is the peak above the loaded model. Ranks: `phf train "
        "--processes` with 8 rollouts of 64 tokens a step, the update's seconds and the peak of a whole process, on "
        f"{os.cpu_count()} cores."
    )
    return Table("How the update grows", note, GROWTH, rows)


def measure_commands() -> Table:
    """A row for each number of rows of a data set, and of samples of an evaluation."""
    with scratch() as folder:
        costs = []
        model = make_model(folder / "model", layers=2, width=WIDTH, context=2 * LONG[-1])
        for count in ROWS:
            data = folder / f"{count}.jsonl"
            _write_rows(data, count)
            costs.append(_cost(folder, ["train", "--model", str(model), "--data", str(data), "--dry-run"]))
        rows = _growth("rows: train --dry-run", ROWS, costs)
        by_command: dict[str, list[tuple[float, float]]] = {"compare": [], "report": []}
        for count in SAMPLES:
            sizes = argparse.Namespace(problems=30, samples=count, tokens=4864)
            one, other = (folder / f"{name}-{count}" for name in ("one", "other"))
            for seed, evaluation in enumerate((one, other)):
                write_evaluation(evaluation, sizes, seed)
            for command, costs in by_command.items():
                page = ["--output", str(folder / "report.html")] if command == "report" else []
                costs.append(_cost(folder, [command, str(one), str(other), *page]))
        for command, costs in by_command.items():
            rows += _growth(f"samples: {command}", SAMPLES, costs)
    note = (
        "CPU seconds, and the peak of a whole process: `phf train --dry-run` on rows with solutions of some "
        f"{4 * SOLUTION_TOKENS:,} characters, and commands on two evaluations of 30 problems with samples of 4,864 "
        "tokens. The start of a program is in each."
    )
    return Table("How the commands grow", note, GROWTH, rows)


def _cost(folder: Path, words: Sequence[str]) -> tuple[float, float]:
    seconds, mib, code = command_cost(words, folder / "log")
    if code:
        raise SystemExit(f"phf {' '.join(words)}: {(folder / 'log').read_text()}")
    return seconds, mib * 2**20


def _write_rows(path: Path, count: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            solution = thinking(rng, SOLUTION_TOKENS, str(number))
            print(json.dumps({"problem": f"Problem {number}", "solution": solution, "answer": number}), file=file)


def _growth(name: str, values: Sequence[int], costs: Sequence[tuple[float, float]]) -> list[list[str]]:
    """A row for each value, with seconds and bytes; the last one has the slopes from the first to it."""
    rows = [
        [name, f"{value:,}", f"{seconds:.2f}", mebibytes(size), "", ""]
        for value, (seconds, size) in zip(values, costs, strict=True)
    ]
    span = math.log(values[-1] / values[0])
    rows[-1][-2:] = [f"{math.log(last / first) / span:.2f}" for first, last in zip(costs[0], costs[-1], strict=True)]
    return rows


def _update(folder: Path, case: dict[str, int], repeats: int, threads: int, device: str) -> dict[str, Any]:
    model = folder / f"layers-{case['layers']}"
    if not model.exists():
        make_model(model, layers=case["layers"], width=WIDTH)
    task = {
        "model": str(model),
        "objective": "phf",
        "device": device,
        "micro_batch_size": case["batch"],
        "rollouts": make_rollouts(case["batch"], 64, 192, case["tokens"], VOCABULARY),
        "repeats": repeats,
        "threads": threads,
    }
    return run_contender("own", task)


def measure_long_rollouts(threads: int, device: str) -> Table:
    """A row for each length of one rollout, with gradient checkpointing: what a further token takes."""
    rows, before = [], None
    yardstick = (LONG_LAYERS + 2) * LONG_WIDTH * 4  # a block's input each, and both readers' hidden states
    with scratch() as folder:
        shape = {"layers": LONG_LAYERS, "width": LONG_WIDTH, "head_dim": LONG_HEAD, "vocabulary": LONG_VOCABULARY}
        model = make_model(folder / "long", **shape, context=2 * LONG[-1])
        for tokens in LONG:
            task = {
                "model": str(model),
                "objective": "phf",
                "device": device,
                "micro_batch_size": 1,
                "rollouts": make_rollouts(1, 64, 192, tokens, LONG_VOCABULARY),
                "repeats": 1,
                "threads": threads,
                "settings": {"gradient_checkpointing": True, "lora.r": 8},
            }
            figures = run_contender("own", task)
            held = figures["memory_bytes"]
            each = "" if before is None else f"{(held - before[1]) / (tokens - before[0]):,.0f}"
            ratio = "" if before is None else f"{(held - before[1]) / (tokens - before[0]) / yardstick:.2f}"
            rows.append([f"{tokens:,}", f"{figures['seconds'][0]:.0f}", mebibytes(held), each, ratio])
            before = tokens, held
    note = (
        f"PHF's update on one rollout, a Qwen3 of {LONG_LAYERS} layers x {LONG_WIDTH}, vocabulary {LONG_VOCABULARY:,}, "
        f"float32, LoRA r 8, gradient checkpointing. Bytes of each further token, and their ratio to {yardstick:,}: "
        "the input of each block (the checkpoints) and the hidden states of both readers."
    )
    return Table("Long rollouts", note, ["tokens", "seconds", "memory", "bytes a further token", "ratio"], rows)


def _with_ranks(folder: Path, count: int, threads: int) -> tuple[float, float]:
    run = folder / f"ranks-{count}"
    settings = ["batch_size=8", "rollout.max_new_tokens=64", "rollout.engine=transformers", "flow.saved_samples=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    model = ["--model", str(folder / f"layers-{BASE['layers']}"), "--data", "embedded", "--steps", "3"]
    run_phf(["train", *model, *options, "--processes", str(count), "--output-dir", str(run), "--quiet"], threads)
    steps = metrics_of(run)[1:]
    seconds = statistics.median(step["seconds"] - step["rollout_seconds"] for step in steps)
    return seconds, max(step["peak_memory_bytes"] for step in steps)


def measure_loss_memory(threads: int, width: int = WIDTH) -> Table:
    """A row for each number of tokens: what the loss holds beyond the hidden states it is given."""
    torch.set_num_threads(threads)
    keep_large_blocks()
    head = torch.nn.Embedding(VOCABULARY, width)
    head.requires_grad_(False)
    rows = []
    for tokens in (256, 1024, 4096):
        student = torch.randn(tokens, width, requires_grad=True)
        teacher = torch.randn(tokens, width)
        held = reset_peak(head)
        fused_divergence(student, teacher, head.weight, torch.ones(tokens), clip=0.05).backward()
        above, states = peak("cpu") - held, student.numel() * student.element_size()
        rows.append([f"{tokens:,}", mebibytes(states), mebibytes(above), mebibytes(2 * tokens * VOCABULARY * 4)])
        del student, teacher
    columns = ["tokens", "hidden states", "the loss, above them", "logits of both, never held"]
    note = f"`fused_divergence` and its backward pass, width {width}, vocabulary {VOCABULARY:,}, float32."
    return Table("The memory of the loss", note, columns, rows)


def main(
    repeats: Annotated[int, typer.Option(help="Measured updates, after one to warm up.")] = 3,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
    device: str = "cpu",
) -> None:
    """Measure how time and memory grow."""
    measure_loss_memory(threads).show()
    measure_scaling(repeats, threads, device).show()
    measure_long_rollouts(threads, device).show()
    measure_commands().show()


if __name__ == "__main__":
    typer.run(main)
