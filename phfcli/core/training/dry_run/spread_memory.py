"""Predicts what spreading weights over processes (FSDP2) saves a process, and what it takes for the time of a pass."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from phfcli.core.models.architecture.blocks import find_blocks, find_decoder
from phfcli.core.models.architecture.weights_memory import bytes_of

_WHOLE_BLOCKS = 2  # at once: one that a pass is in, and the next one on its way


@dataclass(frozen=True)
class Spread:
    """Bytes of one process.

    Attributes:
        away: of the weights, what other processes have.
        blocks: of it, what comes back for a moment of a pass.
        outside: of it, what comes back for the whole of a pass and its backward pass: embeddings and head.
        head: the copy of the head that a pass without a gradient leaves.
        gradients: how much less the gradients take in a backward pass.
        share: of what is kept of each trained weight.
    """

    away: int = 0
    blocks: int = 0
    outside: int = 0
    head: int = 0
    gradients: int = 0
    share: float = 1.0


def spread_memory(causal: PreTrainedModel, processes: int, full: bool) -> Spread:
    """For a model of which blocks are spread, or everything where all weights train (`full`)."""
    blocks = [bytes_of(block) for block in find_blocks(causal)[1]]
    others = (processes - 1) / processes
    whole_blocks = _WHOLE_BLOCKS * max(blocks)
    if not full:
        return Spread(away=int(others * sum(blocks)), blocks=int(others * whole_blocks))
    every, outside = bytes_of(causal), bytes_of(causal) - sum(blocks)
    head = bytes_of(causal.get_output_embeddings())
    left = every / processes + outside + whole_blocks  # a block's gradient is shared out as soon as it is there
    return Spread(
        away=int(others * every),
        blocks=int(others * whole_blocks),
        outside=int(others * outside),
        head=head,
        gradients=max(0, int(bytes_of(find_decoder(causal)) - left)),
        share=1 / processes,
    )
