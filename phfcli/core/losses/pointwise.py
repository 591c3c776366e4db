"""Losses that match hidden states or attention position by position.

- OPRD (arXiv 2606.06021): `pointwise_loss`, and the projectors of OPRD-Bridge for models of different widths
- OISD (arXiv 2605.29089, eq. 8-10): `attention_divergence`

docs/math.md says how each was read, because the papers' formulas are lost in our text of them.
Shapes: L layers, B samples, m positions, d and d' hidden sizes of student and teacher, K pairs of layers, r rank of the
projection; T columns, H query heads, G key heads, c head size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.positions import check_states, mean_over_samples, working

_SMALLEST_POWER = 1e-8  # a floor that keeps the normalised loss finite where the teacher's states are all zero


class StateLoss(NamedTuple):
    """A loss that is a mean, with the number of what it is over, so that a loop can divide by a global count."""

    loss: Tensor  # 0-dim, the mean over samples or over positions
    number: Tensor  # 0-dim int64, samples with a valid position, or valid positions


def pointwise_loss(
    student: Tensor, teacher: Tensor, valid: Tensor, normalized: bool = False, by_sample: bool = True
) -> StateLoss:
    """The state loss of OPRD: mean of (h_S - h_T)^2 over hidden size and layers, and over valid positions.

    The gradient flows to `student` only.

    Args:
        student, teacher: [L, B, m, d] hidden states at the selected positions, in any floating dtype; the computation
            is in float32 (float64 for float64).
        valid: [B, m] bool, the positions that count.
        normalized: divides the error of each sample and layer by the mean square of the teacher's states over the same
            positions. Layers of large norm then do not dominate, and a common scale of both states changes nothing.
        by_sample: a mean over the positions of each sample, then over samples; else one over all positions (OPRD).

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
    if by_sample:
        return StateLoss(mean_over_samples(error.mean(0), counted), counted.sum())
    return StateLoss((error.mean(0) * counts).sum() / counts.sum().clamp(min=1), counts.sum())


def mean_cosine(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """The cosine of student's and teacher's states, a mean over layers and valid positions, then over samples; 0-dim.

    Args:
        student, teacher: [L, B, m, d] hidden states.
        valid: [B, m] bool, the positions that count.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_states(student, teacher, valid)
    cosine = F.cosine_similarity(working(student), working(teacher), dim=-1).masked_fill(~valid, 0)  # [L, B, m]
    counts = valid.sum(-1)
    return mean_over_samples(cosine.mean(0).sum(-1) / counts.clamp(min=1), counts > 0)


def _mean_square(x: Tensor, valid: Tensor, counts: Tensor) -> Tensor:
    """[L, B, m, d] -> [L, B]: the mean of x^2 over the valid positions and d."""
    kept = x.masked_fill(~valid[None, :, :, None], 0)
    return kept.square().mean(-1).sum(-1) / counts.clamp(min=1)


_RIDGE = 1e-3  # lambda, relative to each coordinate's variance: bounds the map where the student hardly varies


@dataclass
class PairMoments:
    """Count, sums and sums of products of pairs of states (student, teacher), in float64. Moments of batches add up."""

    count: int
    student: Tensor  # [K, d], sums
    teacher: Tensor  # [K, d']
    student_student: Tensor  # [K, d, d], sums of products
    student_teacher: Tensor  # [K, d, d']
    teacher_teacher: Tensor  # [K, d', d']

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor) -> "PairMoments":
        """The moments of n pairs: student [K, n, d], teacher [K, n, d']."""
        s, t = student.double(), teacher.double()
        return cls(s.shape[1], s.sum(1), t.sum(1), s.mT @ s, s.mT @ t, t.mT @ t)

    def __add__(self, other: "PairMoments") -> "PairMoments":
        return PairMoments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Projector:
    """The linear map P (h - mean) of each layer's hidden states (OPRD-Bridge)."""

    weight: Tensor  # [K, r, d]
    mean: Tensor  # [K, d]

    def __call__(self, states: Tensor) -> Tensor:
        """Projects states [K, ..., d] -> [K, ..., r], in the precision of the projector; the gradient flows to them."""
        weight, mean = self.weight.to(states.device), self.mean.to(states.device)
        rows = states.to(weight.dtype).flatten(1, -2) - mean[:, None]
        projected: Tensor = (rows @ weight.mT).unflatten(1, states.shape[1:-1])
        return projected


def principal_directions(moments: PairMoments) -> tuple[Projector, Tensor]:
    """The principal components of the teacher's states: P_T with all d' rows, and their shares of variance [K, d'].

    The first r rows of the projector's weight are the P_T of rank r. The sign of an eigenvector is free: here its
    largest entry is positive.
    """
    mean = moments.teacher / moments.count
    covariance = moments.teacher_teacher / moments.count - mean[:, :, None] * mean[:, None]
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = (
        values.flip(-1).clamp(min=0),
        vectors.flip(-1).mT,
    )  # the largest eigenvalue first, an eigenvector a row
    largest = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True))
    return Projector(vectors * largest.sign(), mean), values / values.sum(-1, keepdim=True)


def cosines_by_rank(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosine of projected states [..., R] at every rank: on their first 1, 2, ... R coordinates, [..., R]."""
    products, student_squares, teacher_squares = (
        x.cumsum(-1) for x in (student * teacher, student.square(), teacher.square())
    )
    return products / (student_squares * teacher_squares).sqrt().clamp(min=1e-30)


def fit_student(moments: PairMoments, teacher: Projector) -> Projector:
    """P_S = P_T Cov(h', h) (Cov(h) + lambda diag Cov(h))^-1, the ridge regression of the teacher's projected states.

    Args:
        moments: the pairs of states that the map is fitted to.
        teacher: P_T [K, r, d'], the projector of the teacher's states.

    Returns:
        P_S [K, r, d], the projector of the student's states.
    """
    mean = moments.student / moments.count
    covariance = moments.student_student / moments.count - mean[:, :, None] * mean[:, None]
    cross = moments.student_teacher / moments.count - mean[:, :, None] * (moments.teacher / moments.count)[:, None]
    ridge = torch.diag_embed(_RIDGE * covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12))
    return Projector(torch.linalg.solve(covariance + ridge, cross @ teacher.weight.mT).mT, mean)


class Attention(NamedTuple):
    """The inputs of one layer's attention function: queries and keys after projections, norms and rotary embedding."""

    queries: Tensor  # [B, H, T, c]
    keys: Tensor  # [B, G, T, c]
    scale: float  # multiplies the products of queries and keys, 1 / sqrt(c) in most models


def attention_divergence(
    student: Attention, teacher: Attention, columns: Tensor, window: int, strided: int, beta: float = 0.5
) -> Tensor:
    """The mean over heads of jsd(beta) of two layers' attention on the sampled keys (the summands of OISD's eq. 10).

    Each attention distribution is renormalised over the sampled keys (eq. 9). The gradient flows to the student's
    queries and keys only. The computation is in float32 (float64 for float64).

    Args:
        student, teacher: the attention inputs of the two layers, on the same columns.
        columns: [B, m] int64, the columns of the queries. The query at column t may attend to columns 0..t.
        window, strided: the number of newest keys and of keys with a stride before them, as in `sampled_keys`.
        beta: the teacher's weight in the divergence.

    Returns:
        [B, m], in nats.
    """
    keys, allowed = sampled_keys(columns, window, strided)
    detached = Attention(teacher.queries.detach(), teacher.keys.detach(), teacher.scale)
    student_logits, teacher_logits = (
        attention_logits(layer, columns, keys).masked_fill(~allowed[:, :, None], -torch.inf)
        for layer in (student, detached)
    )
    return divergence(student_logits, teacher_logits, kind="jsd", beta=beta).mean(-1)


def sampled_keys(columns: Tensor, window: int, strided: int) -> tuple[Tensor, Tensor]:
    """The keys over which the attention of a query at column t is compared (OISD's set K_t).

    They are the `window` newest columns, t included, and of the r = t - window + 1 columns before them every
    ceil(r / strided)-th from column 0 on, at most `strided` of them.

    Args:
        columns: [B, m] int64, the columns of the queries.

    Returns:
        The key columns [B, m, K] with K = window + strided, and a bool mask [B, m, K] of those that exist.
    """
    last = columns[..., None]
    recent = last - torch.arange(window, device=columns.device)
    earlier = (last - window + 1).clamp(min=0)  # columns before the window
    stride = (earlier + strided - 1).div(max(strided, 1), rounding_mode="floor").clamp(min=1)
    spread = torch.arange(strided, device=columns.device) * stride
    allowed = torch.cat((recent >= 0, spread < earlier), -1)
    return torch.cat((recent, spread), -1).masked_fill(~allowed, 0), allowed


def attention_logits(layer: Attention, columns: Tensor, keys: Tensor) -> Tensor:
    """Attention logits (OISD, eq. 8) of queries at `columns` [B, m] for keys at `keys` [B, m, K]: [B, m, H, K]."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    queries = working(layer.queries.transpose(1, 2)[rows, columns])  # [B, m, H, c]
    chosen = working(layer.keys.transpose(1, 2)[rows[:, None], keys])  # [B, m, K, G, c]
    grouped = queries.unflatten(2, (chosen.shape[3], -1))  # [B, m, G, H / G, c]: neighbouring heads share a key head
    return (torch.einsum("bmghc,bmkgc->bmghk", grouped, chosen) * layer.scale).flatten(2, 3)
