"""The selected positions of a completion, the weights of its tokens, and the sums over both.

Shapes: B samples, m selected positions, N tokens of all completions one after the other, P parts.
An offset is a token's index in its completion, from 0.
"""

import math

import torch
from torch import Tensor

from phfcli.core.names import Where


def select_positions(lengths: Tensor, budget: int = 128, where: Where = "spread") -> tuple[Tensor, Tensor]:
    """The set W of PHF: at most `budget` positions of each sample, chosen by the sample's length alone.

    With k = min(budget, length), "spread" takes k positions evenly from the first to the last: position i is
    i (length - 1) / (k - 1) rounded to the nearest integer, halves up. "first" and "last" take the first or last k.

    Args:
        lengths: [B] number of valid generated positions of each sample, integers >= 0.
        budget: the largest number of positions of a sample, at least 1; at least 2 for "spread".
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
    count_B1 = length_B1.clamp(max=budget)
    valid = slot_1m < count_B1
    if where != "spread":
        return torch.where(valid, slot_1m + (where == "last") * (length_B1 - count_B1), 0), valid
    steps_B1 = (count_B1 - 1).clamp(min=1)
    # slot * (length - 1) / steps, rounded in integers so that every device and dtype agrees
    rounded = (2 * slot_1m * (length_B1 - 1) + steps_B1) // (2 * steps_B1)
    return torch.where(valid, rounded, 0), valid


def working(x: Tensor) -> Tensor:
    """The tensor in the working precision: float64 stays float64, everything else becomes float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_states(student: Tensor, teacher: Tensor, valid: Tensor) -> None:
    """Raises ValueError unless both states are [L, B, m, d] with L >= 1 and `valid` is a bool [B, m]."""
    if student.ndim != 4 or student.shape != teacher.shape or len(student) == 0:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(
            f"student and teacher states must have one shape [layers, samples, positions, d]; got {shapes}"
        )
    if valid.dtype != torch.bool or valid.shape != student.shape[1:3]:
        want = tuple(student.shape[1:3])
        raise ValueError(f"valid must be bool of shape {want}; got {valid.dtype} of shape {tuple(valid.shape)}")


def mean_over_samples(per_sample: Tensor, counted: Tensor) -> Tensor:
    """[..., B] -> [...]: the mean over the samples that `counted` [B] marks; zero, with a graph, if it marks none."""
    return per_sample.masked_fill(~counted, 0).sum(-1) / counted.sum().clamp(min=1)


POSITION_PARTS = 16
ENTROPY_EDGES = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0)  # nats, the limits between the entropy ranges
FORK_ENTROPY = math.log(2)  # nats, of an even choice between two tokens; a fork is a position of a higher entropy


def position_part(offsets: Tensor, lengths: Tensor) -> Tensor:
    """[N] int64: the sixteenth of its completion in which a token lies, 0..15; offsets and lengths are [N]."""
    return offsets * POSITION_PARTS // lengths


def entropy_part(entropy: Tensor) -> Tensor:
    """[N] int64: the range between ENTROPY_EDGES in which a token's entropy [N], in nats, lies; 0 is the lowest."""
    return torch.stack([entropy >= edge for edge in ENTROPY_EDGES]).sum(0)


def sums_by_part(values: Tensor, part: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """The sum [P] and the count [P] of the values [N] of each part; `part` [N] is the part of each value."""
    sums, counts = values.new_zeros(2, parts)
    return sums.index_add(0, part, values), counts.index_add(0, part, torch.ones_like(values))


def rising(offsets: Tensor, lengths: Tensor, least: float, middle: float, width: float) -> Tensor:
    """[N]: least + (1 - least) sigmoid((f - middle) / width) at the relative position f of a token (PW-OPSD)."""
    return least + (1 - least) * (((offsets + 0.5) / lengths - middle) / width).sigmoid()


def after(offsets: Tensor, skipped: int) -> Tensor:
    """[N]: the weight 0 for the first `skipped` tokens of each completion, 1 for all others ("skip-first-N")."""
    return (offsets >= skipped).float()


def normalised(weights: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    """[N]: the weights scaled to the mean 1 over each completion that has a weight above zero."""
    row = (offsets == 0).cumsum(0) - 1
    sums = torch.zeros_like(weights).index_add(0, row, weights)[row]
    return to_mean_1(weights, sums, lengths)


def to_mean_1(weights: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Scales weights to the mean 1 over their groups, from each group's sum and size; 0 where the sum is 0."""
    return torch.where(sums > 0, weights * counts / sums.clamp_min(torch.finfo(weights.dtype).tiny), 0)
