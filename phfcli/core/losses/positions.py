"""Selects the generated positions that carry a hidden loss: PHF's set W, and OPRD's first or last ones."""

import torch
from torch import Tensor

from phfcli.core.names import Where


def select_positions(lengths: Tensor, budget: int = 128, where: Where = "spread") -> tuple[Tensor, Tensor]:
    """At most `budget` positions of each sample, chosen by its own length alone: all of them when length <= budget.

    With k = min(budget, length), the spread ones reach evenly from the first position to the last: position i is
    i (length - 1) / (k - 1) rounded to the nearest integer, halves up. The others are the first k or the last k.

    Args:
        lengths: [B] number of valid generated positions of each sample, integers >= 0.
        budget: the most positions of a sample, at least 1, and at least 2 to be spread.
        where: "spread" (PHF), "first" or "last".

    Returns:
        positions: [B, m] int64, strictly increasing over the valid slots; 0 in the others. m is the smaller of `budget`
            and the longest length, and at least 1.
        valid: [B, m] bool, a prefix of each row.

    Raises:
        ValueError: a budget that is too small, or lengths that are not a vector of non-negative integers.
    """
    if budget < (2 if where == "spread" else 1):
        raise ValueError(f"budget must be at least 1, or 2 for the first and the last position; got {budget}")
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise ValueError(f"lengths must be a vector of integers; got {lengths.dtype} of shape {tuple(lengths.shape)}")
    longest = int(lengths.max()) if len(lengths) else 0
    if len(lengths) and int(lengths.min()) < 0:
        raise ValueError("lengths must not be negative")

    length_B1 = lengths.long()[:, None]
    slot_1m = torch.arange(max(1, min(budget, longest)), device=lengths.device)[None]
    taken_B1 = length_B1.clamp(max=budget)
    valid = slot_1m < taken_B1
    if where != "spread":
        return torch.where(valid, slot_1m + (where == "last") * (length_B1 - taken_B1), 0), valid
    steps_B1 = (taken_B1 - 1).clamp(min=1)
    # round(slot * (length - 1) / steps) in integers; steps of at least 1 keep it strictly increasing
    rounded = (2 * slot_1m * (length_B1 - 1) + steps_B1) // (2 * steps_B1)
    return torch.where(valid, rounded, 0), valid
