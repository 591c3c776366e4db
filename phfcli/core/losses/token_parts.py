"""Sorts tokens into parts, along their rollout and by entropy, and sums what was read of them.

Shapes: N tokens, P parts.
"""

import torch
from torch import Tensor

POSITION_PARTS = 16
ENTROPY_EDGES = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0)  # nats, between the parts


def position_part(offsets: Tensor, lengths: Tensor) -> Tensor:
    """[N]: which sixteenth of its completion a token lies in, from its place and the completion's length."""
    return offsets * POSITION_PARTS // lengths


def entropy_part(entropy: Tensor) -> Tensor:
    """[N]: which of the ranges between ENTROPY_EDGES a token's entropy lies in."""
    return torch.bucketize(entropy, entropy.new_tensor(ENTROPY_EDGES), right=True)


def sums_by_part(values: Tensor, part: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Of each part the sum of the values [N] and the number of them: [P], [P]."""
    sums, counts = values.new_zeros(2, parts)
    return sums.index_add(0, part, values), counts.index_add(0, part, torch.ones_like(values))
