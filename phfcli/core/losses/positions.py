"""Which positions of a completion are looked at, and the sums over them."""

import math

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


def working(x: Tensor) -> Tensor:
    """The tensor in the precision of the mathematics: float64 stays, everything else becomes float32."""
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
    """[..., B] -> [...]: the mean over the samples that `counted` [B] marks; zero, still with a gradient, if none."""
    return per_sample.masked_fill(~counted, 0).sum(-1) / counted.sum().clamp(min=1)


POSITION_PARTS = 16
ENTROPY_EDGES = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0)  # nats, between the parts
FORK_ENTROPY = math.log(2)  # nats: above it a token is a fork, as open as a choice between two


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


def ramp(offsets: Tensor, lengths: Tensor, falling: bool) -> Tensor:
    """[N]: rises evenly from the completion's first token to its last, or falls."""
    place = (offsets + 0.5) / lengths
    return 1 - place if falling else place


def after(offsets: Tensor, skipped: int) -> Tensor:
    """[N]: nothing for the first so many tokens of each completion, the same for all others."""
    return (offsets >= skipped).float()


def prefix_importance(student: Tensor, teacher: Tensor, offsets: Tensor) -> Tensor:
    """[N]: how far the teacher would still have come this way, from both readers' log-probabilities of each token [N].

    prod_{s < t} min(1, p_T(y_s) / p_S(y_s)): 1 at the first token, and less from each one on that the teacher finds
    less likely than the student does.
    """
    steps = (teacher - student).clamp(max=0).double()
    before = steps.cumsum(0) - steps  # of all completions, up to each token
    starts = before[offsets == 0]
    row = (offsets == 0).cumsum(0) - 1
    return working((before - starts[row]).exp().to(student.dtype))


def normalised(weights: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
    """[N]: with the mean 1 over each completion that has any."""
    row = (offsets == 0).cumsum(0) - 1
    sums = weights.new_zeros(int(row[-1]) + 1 if len(row) else 0).index_add(0, row, weights)[row]
    return to_mean_1(weights, sums, lengths)


def to_mean_1(weights: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Weights with the mean 1 over their group, whose sum and size are given for each; 0 where nothing has a weight."""
    return torch.where(sums > 0, weights * counts / sums.clamp_min(torch.finfo(weights.dtype).tiny), 0)
