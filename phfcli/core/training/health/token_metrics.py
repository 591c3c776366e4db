"""Metrics of single tokens, from what the objective's pass over the vocabulary has read."""

import torch
from torch import Tensor

from phfcli.core.losses.token_parts import ENTROPY_EDGES, POSITION_PARTS, entropy_part, position_part, sums_by_part
from phfcli.core.models.passes import Batch
from phfcli.core.objectives.contract import TokenReadings

Sums = dict[str, tuple[Tensor, Tensor]]  # of each metric a sum, and the count that divides it


@torch.no_grad()
def token_metrics(readings: TokenReadings, batch: Batch, fork_entropy: float) -> Sums:
    """Entropy and forks, and the divergence by position and by entropy where there is one."""
    entropy, divergence = readings.entropy, readings.divergence
    sums = entropy_metrics(entropy, fork_entropy)
    if divergence is None:
        return sums
    rows, offsets = batch.tokens
    places, levels = position_part(offsets, batch.lengths[rows]), entropy_part(entropy)
    by_level = sums_by_part(divergence, levels, len(ENTROPY_EDGES) + 1)
    sums["divergence_by_position"] = sums_by_part(divergence, places, POSITION_PARTS)
    sums["divergence_by_entropy"] = by_level
    sums["tokens_by_entropy"] = (by_level[1], entropy.new_tensor(len(entropy)))
    return sums


def entropy_metrics(entropy: Tensor, fork_entropy: float) -> Sums:
    """The mean entropy [N], and the share of tokens above a fork's."""
    count = entropy.new_tensor(len(entropy))
    return {"entropy": (entropy.sum(), count), "fork_share": ((entropy > fork_entropy).sum(), count)}
