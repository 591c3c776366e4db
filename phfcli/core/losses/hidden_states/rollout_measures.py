"""Measures one rollout by layer and transition; the terms of the loss are means of these measures.

Shapes: L layers, m positions, n = m - 1 transitions, d hidden size. Everything is computed in float32.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.hidden_states.flow import directions, transitions
from phfcli.core.losses.shared import working

_SMALLEST_HSIC = 4  # positions: the unbiased estimator divides by m - 3


class RolloutMeasures(NamedTuple):
    """Measures of one rollout; a first axis of 2 is student, teacher."""

    direction: Tensor  # [L, n]    1 - <dS_i, dT_i>; the mean over i is eq. 6
    geometry: Tensor  # [L, n]    sum_j (G_S - G_T)_ij^2 / (m-1); the mean over i is eq. 7
    adjacent: Tensor  # [L-1]    the summands of eq. 10
    squares: Tensor  # [2, L, n]    |dh_i|^2, eq. 4
    rank: Tensor  # [2, L]    effective rank of the directions
    cosine: Tensor  # [L, m]    of both readers' states
    hsic: Tensor | None  # [3, L]    of student and teacher, of each with itself; None for fewer than four positions


def measure_rollout(student: Tensor, teacher: Tensor, eps: float = 1e-8) -> RolloutMeasures:
    """Both readers' states [L, m, d] along one rollout of at least two positions, all of them valid.

    Raises:
        ValueError: shapes that differ, or fewer than two positions.
    """
    if student.shape != teacher.shape or student.ndim != 3 or student.shape[1] < 2:
        raise ValueError(f"want two [L, m, d] with m >= 2; got {tuple(student.shape)} and {tuple(teacher.shape)}")
    n = student.shape[1] - 1
    linked = torch.ones(1, n, dtype=torch.bool, device=student.device)
    squares, D, grams = [], [], []
    for states in (student[:, None], teacher[:, None]):
        squares.append(transitions(states, linked)[:, 0].square().sum(-1))
        D.append(directions(states, linked, eps)[:, 0])  # [L, n, d]
        grams.append(D[-1] @ D[-1].mT)  # [L, n, n]
    neighbours = D[0][:-1] @ D[0][1:].mT - D[1][:-1] @ D[1][1:].mT  # [L-1, n, n]
    return RolloutMeasures(
        direction=(1 - (D[0] * D[1]).sum(-1)).clamp(min=0),  # below only by rounding
        geometry=(grams[0] - grams[1]).square().sum(-1) / n,
        adjacent=neighbours.square().sum((-2, -1)) / n**2,
        squares=torch.stack(squares),
        rank=torch.stack([effective_rank(gram) for gram in grams]),
        cosine=F.cosine_similarity(working(student), working(teacher), dim=-1),
        hsic=None if n + 1 < _SMALLEST_HSIC else _hsics(student, teacher),
    )


def effective_rank(gram: Tensor) -> Tensor:
    """[..., n, n] -> [...]: exp H of a Gram matrix's eigenvalues over their sum; n for n orthogonal directions.

    As Roy and Vetterli (2007), with the squares of the singular values, the shares of the energy, in their place: small
    ones are rounding errors here. A matrix of zeros has rank 0.
    """
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = values.sum(-1, keepdim=True)
    spread: Tensor = torch.special.entr(values / torch.where(total > 0, total, 1)).sum(-1)
    return torch.where(total[..., 0] > 0, spread.exp(), 0)


def _hsics(student: Tensor, teacher: Tensor) -> Tensor:
    """[3, L]: the unbiased HSIC of linear kernels over the positions.

    Sums of it over many rollouts give a CKA that does not grow with the hidden size: Nguyen, Raghu and Kornblith
    (2021), eq. 3, with Song et al. (2012), eq. 5. A shift of the states changes nothing but the rounding errors.
    """
    K, Q = (_centred_kernel(states) for states in (student, teacher))
    return torch.stack([(a * b).sum((-2, -1)) for a, b in ((K, Q), (K, K), (Q, Q))])


def _centred_kernel(states: Tensor) -> Tensor:
    """[L, m, d] -> [L, m, m]: the kernel without its diagonal, U-centred, scaled so that the squares sum to a HSIC."""
    states = working(states)
    states = states - states.mean(1, keepdim=True)
    m = states.shape[1]
    diagonal = torch.eye(m, dtype=torch.bool, device=states.device)
    kernel = (states @ states.mT).masked_fill(diagonal, 0)
    rows = kernel.sum(-1, keepdim=True) / (m - 2)
    everything = kernel.sum((-2, -1), keepdim=True) / ((m - 1) * (m - 2))
    centred: Tensor = (kernel - rows - rows.mT + everything).masked_fill(diagonal, 0)
    return centred / math.sqrt(m * (m - 3))
