"""Weights of the tokens of a completion: which of them a distillation looks at.

Shapes: N tokens of several completions, end to end. Within each completion the weights have the mean 1, so that a
weighting moves a loss between the tokens and leaves its scale alone; a completion of which nothing has a weight has
none at all.
"""

import torch
from torch import Tensor

from phfcli.core.losses.shared import working


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
