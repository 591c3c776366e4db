"""Two models' states in one space of low rank (OPRD-Bridge, stage 1): the teacher's principal directions, and the
student's linear map onto them.

The paper trains the student's projector until it converges; what it converges to is the least-squares solution, which
is computed here directly, from moments that do not grow with the number of pairs.

Shapes: K pairs of layers, n pairs of states, d and d' the two widths, r the rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
