"""Privileged Hidden Flow: the student's hidden states should move along the rollout as the teacher's do.

Source: PHF paper, eq. 4-10, 12 and 13. Shapes: L layers, B samples, m selected positions, d hidden size.

Two choices that the paper leaves open:
- a padded batch: each sample uses its own m (its number of valid positions), and the terms are means over the samples
  that have a transition at all. A sample with fewer than two valid positions adds nothing and is not counted;
- a transition of length exactly zero has the direction 0, as in eq. 5, and passes no gradient (eq. 5 read literally
  passes 1/eps = 1e8 there, which would drown every other gradient of the batch).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from phfcli.core.losses.shared import check_states, mean_over_samples, working
from phfcli.core.losses.token_weights import to_mean_1

Local = Literal["both", "direction", "geometry", "half-direction", "half-geometry"]


_SCALE = 2.0**-80  # a power of two, so that nothing is rounded


_PARTS = {"direction": (1.0, 0.0), "geometry": (0.0, 1.0), "half-direction": (0.5, 0.0), "half-geometry": (0.0, 0.5)}


class FlowTerms(NamedTuple):
    """The terms of the flow, each the mean over the `samples` samples that have a transition (zero if none)."""

    direction: Tensor  # [L]    L_dir, eq. 6
    geometry: Tensor  # [L]    L_geo, eq. 7
    adjacent: Tensor  # [L-1]  the summands of L_adj, eq. 10
    samples: Tensor  # 0-dim int64


def flow_terms(
    student: Tensor, teacher: Tensor, valid: Tensor, eps: float = 1e-8, weights: Tensor | None = None
) -> FlowTerms:
    """The direction, geometry and neighbouring-layer terms of every layer; the gradient flows to `student` only.

    Args:
        student, teacher: [L, B, m, d] residual states at the selected positions, any floating dtype (float32 inside).
        valid: [B, m] bool; a transition joins two neighbouring slots that are both valid.
        eps: the epsilon of eq. 5.
        weights: [B, m] of the positions, or None for all alike. A transition has the weight of the position it leads
            to, a pair of transitions the product of both; over a sample's transitions they are scaled to the mean 1.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_states(student, teacher, valid)
    linked = transition_mask(valid)
    student_D = directions(student, linked, eps)
    teacher_D = directions(teacher.detach(), linked, eps)
    counts = linked.sum(-1)  # [B], each m - 1
    shares = linked.to(student_D.dtype) if weights is None else _shares(weights, linked)  # [B, m-1]
    if weights is not None:  # the square root on both sides of a product is the weight of its summand
        student_D, teacher_D = (D * shares.sqrt()[None, :, :, None] for D in (student_D, teacher_D))
    return FlowTerms(
        direction=_direction_term(student_D, teacher_D, shares.sum(-1), counts),
        geometry=_relation_term((student_D, student_D), (teacher_D, teacher_D), counts),
        adjacent=_relation_term((student_D[:-1], student_D[1:]), (teacher_D[:-1], teacher_D[1:]), counts),
        samples=(counts > 0).sum(),
    )


def flow_loss(terms: FlowTerms, adjacent: bool = True, local: Local = "both") -> Tensor:
    """L_flow: L_local / 2 + L_adj / 2 (eq. 13), or L_local alone (eq. 12) without `adjacent`.

    `local` keeps only one part of each layer, the paper's ablations in two readings: "direction" and "geometry" have it
    in the place of eq. 8, "half-direction" and "half-geometry" at the weight it has there. With one layer there is no
    neighbour and L_adj is zero.
    """
    local_mean = layer_losses(terms, local).mean()
    if not adjacent:
        return local_mean
    adjacent_mean = terms.adjacent.sum() / max(1, len(terms.adjacent))
    return (local_mean + adjacent_mean) / 2


def layer_losses(terms: FlowTerms, local: Local = "both") -> Tensor:
    """[L]: L_layer = (L_dir + L_geo) / 2 (eq. 8), or the one part that `local` names, as `flow_loss` has it."""
    if local == "both":
        return (terms.direction + terms.geometry) / 2
    if local not in _PARTS:
        raise ValueError(f"local must be both, {', '.join(_PARTS)}; got {local!r}")
    direction, geometry = _PARTS[local]
    return terms.direction * direction if direction else terms.geometry * geometry


def terms_of_blocks(terms: FlowTerms, captured: Sequence[int], chosen: Sequence[int]) -> FlowTerms:
    """Of the terms of `captured` blocks those of the `chosen` ones, each related to the very next block alone.

    Both ascend, and captured holds the chosen blocks and the next block of each that has one.
    """
    own = [captured.index(block) for block in chosen]
    related = [captured.index(block) for block in chosen if block + 1 in captured]
    return FlowTerms(terms.direction[own], terms.geometry[own], terms.adjacent[related], terms.samples)


def transition_mask(valid: Tensor) -> Tensor:
    """[B, m] -> [B, m-1]: where both ends of a transition are valid."""
    return valid[:, 1:] & valid[:, :-1]


def transitions(states: Tensor, linked: Tensor) -> Tensor:
    """[L, B, m, d] -> [L, B, m-1, d]: eq. 4; zero, without a gradient, where `linked` [B, m-1] is False."""
    states = working(states)
    return (states[:, :, 1:] - states[:, :, :-1]).masked_fill(~linked[None, :, :, None], 0)


def directions(states: Tensor, linked: Tensor, eps: float | Tensor) -> Tensor:
    """[L, B, m-1, d]: eq. 5; zero where there is no transition or one of length zero."""
    delta = transitions(states, linked)
    length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    if bool(
        (beyond := length.isinf()).any()
    ):  # |dh|^2 is no float32, |dh| may be: a scaled transition points as it does
        scale = torch.where(beyond, _SCALE, 1.0)
        delta, eps = delta * scale, eps * scale
        length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    return delta / torch.where(length > 0, length + eps, torch.inf)  # x / inf: value and gradient are zero


def _shares(weights: Tensor, linked: Tensor) -> Tensor:
    """[B, m-1]: the weights of the transitions, with the mean 1 over a sample's; all 0 where none has any."""
    own = working(weights)[:, 1:].masked_fill(~linked, 0)
    return to_mean_1(own, own.sum(-1, keepdim=True), linked.sum(-1, keepdim=True))


def _direction_term(student_D: Tensor, teacher_D: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """[L]: mean_i (1 - <dS_i, dT_i>), eq. 6; a zero direction of an absent transition adds to neither sum.

    weight: [B] of all transitions of a sample together; their number, unless some count for more.
    """
    cosines = (student_D * teacher_D).sum((-2, -1))  # [L, B]
    return mean_over_samples((weight - cosines) / counts.clamp(min=1), counts > 0)


def _relation_term(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], counts: Tensor) -> Tensor:
    """|A_S B_S^T - A_T B_T^T|_F^2 / (m-1)^2 of pairs of [L', B, m-1, d] -> [L'].

    With (D, D) it is the geometry term (eq. 7), with (D_l, D_l+1) the neighbouring-layer term (eq. 9 and 10).
    """
    with torch.autocast(student[0].device.type, enabled=False):  # the products stay in float32
        gap = student[0] @ student[1].mT - teacher[0] @ teacher[1].mT  # [L', B, m-1, m-1]
    return mean_over_samples(gap.square().sum((-2, -1)) / counts.clamp(min=1).square(), counts > 0)
