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

from phfcli.core.config import LoraSettings
from phfcli.core.models.adapters.lora import lora_network
from phfcli.core.models.description import skeleton
from phfcli.core.training.dry_run.pass_memory import PassMemory, pass_memory

WIDE = 151_936
SHAPES = {"28 x 2048 (Qwen3-1.7B)": (28, 2048, 6144, 16), "36 x 4096 (Qwen3-8B)": (36, 4096, 12_288, 32)}
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


def _passes(layers: int, width: int, inner: int, heads: int, checkpointing: bool, away: bool) -> PassMemory:
    config = Qwen3Config(
        vocab_size=WIDE,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    causal = skeleton(config, torch.bfloat16)
    lora_network(causal, LoraSettings())
    causal.train()
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    return pass_memory(causal, ROWS, LENGTH, 0, "sdpa", away)


def main(repeats: int = 5, threads: int = int(os.environ.get("OMP_NUM_THREADS", "1"))) -> None:
    """Measure updates with compiled blocks, and count what offloading leaves."""
    count_offloaded().show()
    measure_compiled(repeats, threads).show()


if __name__ == "__main__":
    typer.run(main)
