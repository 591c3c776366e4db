"""What `offload.activations` leaves on a GPU, counted on shapes: `python benchmarks/offload.py`."""

import torch
from harness.tables import Table
from transformers import Qwen3Config

from phfcli.core.config import LoraSettings
from phfcli.core.models.description import skeleton
from phfcli.core.models.lora import lora_network
from phfcli.core.training.pass_memory import PassMemory, pass_memory

WIDE = 151_936
Shape = tuple[int, int, int, int]  # layers, width, the MLP's width, heads
SHAPES: dict[str, Shape] = {
    "28 x 2048 (Qwen3-1.7B)": (28, 2048, 6144, 16),
    "36 x 4096 (Qwen3-8B)": (36, 4096, 12_288, 32),
}
ROWS, LENGTH = 4, 1224


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


if __name__ == "__main__":
    count_offloaded().show()
