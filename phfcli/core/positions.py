"""Which generated positions carry the hidden loss: the set W of the PHF paper, chosen for each sample."""

import torch
from torch import Tensor


def select_positions(lengths: Tensor, budget: int = 128) -> tuple[Tensor, Tensor]:
    """At most `budget` positions of each sample, spread evenly over 0..length-1, the first and the last included.

    With k = min(budget, length) positions, position i is i (length - 1) / (k - 1) rounded to the nearest integer,
    halves up: all positions when length <= budget. The choice depends on the sample's own length alone.

    Args:
        lengths: [B] number of valid generated positions of each sample, integers >= 0.
        budget: the most positions of a sample, at least 2.

    Returns:
        positions: [B, m] int64, strictly increasing over the valid slots; 0 in the others. m is the smaller of `budget`
            and the longest length, and at least 1.
        valid: [B, m] bool, a prefix of each row.

    Raises:
        ValueError: a budget below 2, or lengths that are not a vector of non-negative integers.
    """
    if budget < 2:
        raise ValueError(f"budget must be at least 2, for the first and the last position; got {budget}")
    if lengths.ndim != 1 or lengths.is_floating_point():
        raise ValueError(f"lengths must be a vector of integers; got {lengths.dtype} of shape {tuple(lengths.shape)}")
    longest = int(lengths.max()) if len(lengths) else 0
    if len(lengths) and int(lengths.min()) < 0:
        raise ValueError("lengths must not be negative")

    length_B1 = lengths.long()[:, None]
    slot_1m = torch.arange(max(1, min(budget, longest)), device=lengths.device)[None]
    taken_B1 = length_B1.clamp(max=budget)
    valid = slot_1m < taken_B1
    steps_B1 = (taken_B1 - 1).clamp(min=1)
    # round(slot * (length - 1) / steps) in integers; steps of at least 1 keep it strictly increasing
    rounded = (2 * slot_1m * (length_B1 - 1) + steps_B1) // (2 * steps_B1)
    return torch.where(valid, rounded, 0), valid
