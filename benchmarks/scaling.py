"""How time and memory of an update grow: `python benchmarks/scaling.py`.

One thing is changed at a time: rollout tokens, layers, batch, ranks. The loss alone is measured too: beyond its hidden
states and their gradient its memory does not grow with the number of tokens.
"""

import os
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from harness.models import make_model, make_rollouts
from harness.processes import metrics_of, peak, reset_peak, run_contender, run_phf, scratch
from harness.tables import Table, mebibytes

from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.models.device import keep_large_blocks

VOCABULARY = 151_936
BASE = {"tokens": 256, "layers": 4, "batch": 2}
CHANGES = {"tokens": (64, 256, 1024), "layers": (2, 4, 8), "batch": (1, 2, 4)}
WIDTH = 256
LONG = (1024, 4096, 16_384)  # tokens of one rollout
LONG_LAYERS, LONG_WIDTH, LONG_HEAD, LONG_VOCABULARY = 36, 128, 32, 8192  # as deep as Qwen3-4B


def measure_scaling(repeats: int, threads: int, device: str) -> Table:
    """A row for each value of each quantity, the others at their base."""
    rows = []
    with scratch() as folder:
        for name, values in CHANGES.items():
            for value in values:
                case = BASE | {name: value}
                figures = _update(folder, case, repeats, threads, device)
                seconds = statistics.median(figures["seconds"])
                rows.append([name, str(value), f"{seconds:.2f}", mebibytes(figures["memory_bytes"])])
        rows += [["ranks", str(count), *_with_ranks(folder, count, threads)] for count in (1, 2)]
    base = ", ".join(f"{value} {name}" for name, value in BASE.items())
    note = (
        f"PHF's update on a Qwen3 of width {WIDTH}, vocabulary {VOCABULARY:,}; at the base {base}, prompts of 64 and "
        f"192 tokens. Seconds are medians of {repeats}; memory is the peak above the loaded model. Ranks: `phf train "
        "--processes` with 8 rollouts of 64 tokens a step, the update's seconds and the peak of a whole process, on "
        f"{os.cpu_count()} cores."
    )
    return Table("How the update grows", note, ["quantity", "value", "seconds", "memory"], rows)


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


def _with_ranks(folder: Path, count: int, threads: int) -> list[str]:
    run = folder / f"ranks-{count}"
    settings = ["batch_size=8", "rollout.max_new_tokens=64", "rollout.engine=transformers", "flow.saved_samples=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    model = ["--model", str(folder / f"layers-{BASE['layers']}"), "--data", "embedded", "--steps", "3"]
    run_phf(["train", *model, *options, "--processes", str(count), "--output-dir", str(run), "--quiet"], threads)
    steps = metrics_of(run)[1:]
    seconds = statistics.median(step["seconds"] - step["rollout_seconds"] for step in steps)
    return [f"{seconds:.2f}", mebibytes(max(step["peak_memory_bytes"] for step in steps))]


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
    """Measure how an update's time and memory grow."""
    measure_loss_memory(threads).show()
    measure_scaling(repeats, threads, device).show()
    measure_long_rollouts(threads, device).show()


if __name__ == "__main__":
    typer.run(main)
