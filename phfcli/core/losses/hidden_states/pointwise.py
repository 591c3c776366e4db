"""Pointwise matching of hidden states: the control that PHF is measured against, and the loss of OPRD.

Shapes: L layers, B samples, m selected positions, d hidden size.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.shared import check_states, mean_over_samples, working

_SMALLEST_POWER = 1e-8  # keeps the normalised form finite where the teacher's states are all zero


class StateLoss(NamedTuple):
    """A mean over `samples` samples, as a loop that divides by a global count wants it."""

    loss: Tensor  # 0-dim, the mean over samples
    samples: Tensor  # 0-dim int64, samples with a valid position


def pointwise_loss(student: Tensor, teacher: Tensor, valid: Tensor, normalized: bool = False) -> StateLoss:
    """Mean squared difference over layers, valid positions and hidden size, then over samples; gradient to `student`.

    `normalized` divides the error of each sample and layer by the mean square of the teacher's states over the same
    positions, so that layers of large norm do not dominate and a common rescale of both states changes nothing.

    Args:
        student, teacher: [L, B, m, d] residual states at the selected positions, any floating dtype (float32 inside).
        valid: [B, m] bool.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_states(student, teacher, valid)
    target = working(teacher.detach())
    counts = valid.sum(-1)  # [B]
    error = _mean_square(working(student) - target, valid, counts)  # [L, B]
    if normalized:
        error = error / _mean_square(target, valid, counts).clamp(min=_SMALLEST_POWER)
    counted = counts > 0
    return StateLoss(mean_over_samples(error.mean(0), counted), counted.sum())


def mean_cosine(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """The cosine of the two states, a mean over layers and valid positions, then over samples; 0-dim.

    student, teacher: [L, B, m, d]; valid: bool [B, m].
    """
    check_states(student, teacher, valid)
    cosine = F.cosine_similarity(working(student), working(teacher), dim=-1).masked_fill(~valid, 0)  # [L, B, m]
    counts = valid.sum(-1)
    return mean_over_samples(cosine.mean(0).sum(-1) / counts.clamp(min=1), counts > 0)


def _mean_square(x: Tensor, valid: Tensor, counts: Tensor) -> Tensor:
    """[L, B, m, d] -> [L, B]: over the valid positions and d."""
    kept = x.masked_fill(~valid[None, :, :, None], 0)
    return kept.square().mean(-1).sum(-1) / counts.clamp(min=1)
