"""What `compile` and `offload` cost and give: `python benchmarks/compile_and_offload.py`.

An update (PHF, LoRA r 64, float32) with and without compiled blocks, each in a process of its own, in turn: CPU seconds
after the first one, which compiles. What offloading leaves on a GPU is counted on shapes, since none is needed for it.
"""

import os
import statistics
from typing import Any

import torch
import typer
from harness.models import make_model, make_rollouts
from harness.processes import run_contender, scratch
from harness.tables import Table, mebibytes, spread
from transformers import Qwen3Config

from phfcli.core.config import LoraSettings, TrainConfig
from phfcli.core.models.description import skeleton
from phfcli.core.models.lora import lora_network
from phfcli.core.objectives.build import build_objective
from phfcli.core.training.pass_memory import PassMemory, pass_memory
from phfcli.core.training.step_memory import Lengths, step_memory

WIDE = 151_936
Shape = tuple[int, int, int, int]  # layers, width, the MLP's width, heads
SHAPES: dict[str, Shape] = {
    "28 x 2048 (Qwen3-1.7B)": (28, 2048, 6144, 16),
    "36 x 4096 (Qwen3-8B)": (36, 4096, 12_288, 32),
}
ROWS, LENGTH = 4, 1224


def measure_compiled(repeats: int, threads: int) -> Table:
    """A row for each model, as it is and compiled."""
    rows = []
    with scratch() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # nothing is compiled before it is measured
        wide = str(make_model(folder / "wide"))
        cases = {
            "embedded, 8 x 48 tokens": ("embedded", make_rollouts(8, 40, 90, 48, 260)),
            "8 x 512, vocabulary 151,936, 2 x 128 tokens": (wide, make_rollouts(2, 64, 192, 128, WIDE)),
        }
        for name, (model, rollouts) in cases.items():
            task = {"model": model, "device": "cpu", "objective": "phf", "rollouts": rollouts, "repeats": repeats}
            task |= {"micro_batch_size": len(rollouts), "threads": threads}
            found = {
                compiled: run_contender("own", task | {"settings": {"compile": compiled}}) for compiled in (False, True)
            }
            rows += [_row(name, compiled, found) for compiled in found]
    note = f"CPU seconds of an update as median (range) of {repeats} after the first; memory above the loaded model."
    return Table("Compiled blocks", note, ["update", "blocks", "first, s", "CPU s", "of plain", "memory", "loss"], rows)


def _row(name: str, compiled: bool, found: dict[bool, dict[str, Any]]) -> list[str]:
    own = found[compiled]
    ratio = statistics.median(own["cpu"]) / statistics.median(found[False]["cpu"])
    kind = "compiled" if compiled else "as they are"
    figures = [f"{own['first']:.1f}", spread(own["cpu"]), f"{ratio:.2f}", mebibytes(own["memory_bytes"])]
    return [name, kind, *figures, f"{own['losses'][0]:.6f}"]


def count_offloaded() -> Table:
    """A row for each model: the most that the student's passes hold, activations here or away."""
    rows = []
    for name, shape in SHAPES.items():
        ways = [(checkpointing, away) for checkpointing in (False, True) for away in (False, True)]
        held = [_passes(*shape, *way) for way in ways]
        rows.append([name, *(f"{one.backward / 2**30:.2f} GiB" for one in held), f"{held[0].kept / 2**30:.1f} GiB"])
    note = (
        f"Counted on shapes, not measured: {ROWS} sequences of {LENGTH:,} tokens, LoRA r 64, bfloat16, the most "
        "that the student's passes hold above the weights on a GPU. Time was not measured: there is none here."
    )
    columns = ["model", "as it is", "activations away", "checkpointing", "both", "moved each way without checkpointing"]
    return Table("Activations in the machine's memory", note, columns, rows)


def count_kept_away() -> Table:
    """A row for each model and tuning: moments and teacher, here or away, and what then crosses the bus."""
    rows = []
    for name, shape in SHAPES.items():
        for tuning in ("lora", "full"):
            held = {away: _always(shape, tuning, away) for away in (False, True)}
            sizes = [held[away][part] for part in ("AdamW", "teacher") for away in (False, True)]
            moved = [held[False]["AdamW"], 2 * held[False]["teacher"], held[False]["teacher"]]
            rows.append([name, tuning, *(f"{size / 2**30:.2f} GiB" for size in (*sizes, *moved))])
    note = (
        "Counted on shapes, not measured. LoRA r 64. Moved, each way: moments and the teacher's average once an "
        "update; the teacher's weights change places with the student's before and after each of its passes."
    )
    columns = ["model", "tuning", "moments", "moments away", "teacher", "teacher away"]
    columns += ["moments moved, an update", "teacher moved, a micro-batch", "and an update"]
    return Table("Moments and teacher in the machine's memory", note, columns, rows)


def _always(shape: Shape, tuning: str, away: bool) -> dict[str, int]:
    offload = {"optimizer": away, "teacher": away}
    config = TrainConfig.model_validate(
        {"device": "meta", "dtype": "bfloat16", "tuning": tuning, "offload": offload, "objective": "opsd"}
    )
    needs, lengths = build_objective(config).needs, Lengths(128, 256, LENGTH)
    return step_memory(config, needs, _config(*shape), lengths).always


def _passes(layers: int, width: int, inner: int, heads: int, checkpointing: bool, away: bool) -> PassMemory:
    causal = skeleton(_config(layers, width, inner, heads), torch.bfloat16)
    lora_network(causal, LoraSettings())
    causal.train()
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    return pass_memory(causal, ROWS, LENGTH, 0, "sdpa", away)


def _config(layers: int, width: int, inner: int, heads: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=WIDE,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )


def main(repeats: int = 5, threads: int = int(os.environ.get("OMP_NUM_THREADS", "1"))) -> None:
    """Measure updates with compiled blocks, and count what offloading leaves."""
    count_offloaded().show()
    count_kept_away().show()
    measure_compiled(repeats, threads).show()


if __name__ == "__main__":
    typer.run(main)
