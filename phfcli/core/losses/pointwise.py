"""Losses that match hidden states or attention point by point: OPRD, its bridge's projectors, and OISD's attention."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.positions import check_states, mean_over_samples, working

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


_RIDGE = 1e-3  # of each coordinate's variance: bounds the map along directions in which the student hardly varies


@dataclass
class PairMoments:
    """Count, means and second moments of pairs of states, in float64."""

    count: int
    student: Tensor  # [K, d], sums
    teacher: Tensor  # [K, d']
    student_student: Tensor  # [K, d, d], sums of products
    student_teacher: Tensor  # [K, d, d']
    teacher_teacher: Tensor  # [K, d', d']

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor) -> "PairMoments":
        """student [K, n, d], teacher [K, n, d']."""
        s, t = student.double(), teacher.double()
        return cls(s.shape[1], s.sum(1), t.sum(1), s.mT @ s, s.mT @ t, t.mT @ t)

    def __add__(self, other: "PairMoments") -> "PairMoments":
        return PairMoments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Projector:
    """x -> weight (x - mean), a map of each layer's states."""

    weight: Tensor  # [K, r, d]
    mean: Tensor  # [K, d]

    def __call__(self, states: Tensor) -> Tensor:
        """[K, ..., d] -> [K, ..., r], in the precision of the projector; the gradient flows to the states."""
        weight, mean = self.weight.to(states.device), self.mean.to(states.device)
        rows = states.to(weight.dtype).flatten(1, -2) - mean[:, None]
        projected: Tensor = (rows @ weight.mT).unflatten(1, states.shape[1:-1])
        return projected


def principal_directions(moments: PairMoments) -> tuple[Projector, Tensor]:
    """The teacher's directions of largest variance, all of them, and each one's share of the variance [K, d'].

    The sign of a direction, which is free, makes its largest entry positive.
    """
    mean = moments.teacher / moments.count
    covariance = moments.teacher_teacher / moments.count - mean[:, :, None] * mean[:, None]
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(-1).clamp(min=0), vectors.flip(-1).mT  # the largest first, one a row
    largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return Projector(vectors * largest.sign(), mean), values / values.sum(-1, keepdim=True)


def cosines_by_rank(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosine of projected states [..., R] on their first 1, 2, ... R coordinates, [..., R]."""
    products, own, other = (x.cumsum(-1) for x in (student * teacher, student.square(), teacher.square()))
    return products / (own * other).sqrt().clamp(min=1e-30)


def fit_student(moments: PairMoments, teacher: Projector) -> Projector:
    """The student's map that comes closest, in the mean square, to the teacher's projected states."""
    mean = moments.student / moments.count
    own = moments.student_student / moments.count - mean[:, :, None] * mean[:, None]
    cross = moments.student_teacher / moments.count - mean[:, :, None] * (moments.teacher / moments.count)[:, None]
    ridge = torch.diag_embed(_RIDGE * own.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12))
    return Projector(torch.linalg.solve(own + ridge, cross @ teacher.weight.mT).mT, mean)


class Attention(NamedTuple):
    """What the attention function of one layer gets: after projections, norms and rotation."""

    queries: Tensor  # [B, H, T, c]
    keys: Tensor  # [B, G, T, c]
    scale: float  # of their products


def attention_divergence(
    student: Attention, teacher: Attention, columns: Tensor, window: int, strided: int, beta: float = 0.5
) -> Tensor:
    """The mean over heads of jsd(beta) between two layers' attention, each renormalised over the sampled keys.

    The gradient flows to the student's queries and keys only; in float32, or float64 for float64.

    Args:
        columns: [B, m] int64, the columns of the queries; columns 0..t of a row are what its query t may see.
        window, strided: how many keys, see above.

    Returns:
        [B, m], in nats.
    """
    keys, allowed = sampled_keys(columns, window, strided)
    detached = Attention(teacher.queries.detach(), teacher.keys.detach(), teacher.scale)
    own, wanted = (
        attention_logits(layer, columns, keys).masked_fill(~allowed[:, :, None], -torch.inf)
        for layer in (student, detached)
    )
    return divergence(own, wanted, kind="jsd", beta=beta).mean(-1)


def sampled_keys(columns: Tensor, window: int, strided: int) -> tuple[Tensor, Tensor]:
    """The key columns of queries at `columns` [B, m]: [B, m, K] and which of them count, K = window + strided."""
    last = columns[..., None]
    recent = last - torch.arange(window, device=columns.device)
    earlier = (last - window + 1).clamp(min=0)  # columns before the window
    stride = (earlier + strided - 1).div(max(strided, 1), rounding_mode="floor").clamp(min=1)
    spread = torch.arange(strided, device=columns.device) * stride
    allowed = torch.cat((recent >= 0, spread < earlier), -1)
    return torch.cat((recent, spread), -1).masked_fill(~allowed, 0), allowed


def attention_logits(layer: Attention, columns: Tensor, keys: Tensor) -> Tensor:
    """Scaled products of the queries at `columns` [B, m] with the keys at `keys` [B, m, K]: [B, m, H, K]."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    queries = working(layer.queries.transpose(1, 2)[rows, columns])  # [B, m, H, c]
    chosen = working(layer.keys.transpose(1, 2)[rows[:, None], keys])  # [B, m, K, G, c]
    grouped = queries.unflatten(2, (chosen.shape[3], -1))  # [B, m, G, H / G, c]: neighbouring heads share a key head
    return (torch.einsum("bmghc,bmkgc->bmghk", grouped, chosen) * layer.scale).flatten(2, 3)
