"""The flow of hidden states along a rollout: directions, Gram geometry, neighbouring layers, energy (PHF eq. 4-14)."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.positions import check_states, mean_over_samples, to_mean_1, working

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


Energy = Literal["loss", "direction", "geometry", "transition"]


def layer_energies(student: Tensor, teacher: Tensor, valid: Tensor, kind: Energy = "loss") -> Tensor:
    """[L]: the energy of each layer, from states [L, B, m, d] at the valid [B, m] positions.

    - loss: L_layer (eq. 8); direction: L_dir (eq. 6); geometry: L_geo (eq. 7);
    - transition: |dh|^2 of the STUDENT's transitions (eq. 4), mean over a sample's transitions, then over samples.

    Raises:
        ValueError: an unknown kind, or shapes that do not fit.
    """
    if kind not in get_args(Energy):
        raise ValueError(f"energy must be one of {', '.join(get_args(Energy))}; got {kind!r}")
    if kind == "transition":
        check_states(student, teacher, valid)
        return _transition_energy(student, transition_mask(valid))
    return layer_losses(flow_terms(student, teacher, valid), "both" if kind == "loss" else kind)


def layer_energy_share(energy: Tensor) -> Tensor:
    """[L] -> [L]: p_l = e_l / sum e.

    Raises:
        ValueError: an energy that is negative or not finite, or all of them zero.
    """
    energy = working(energy)
    if not bool(torch.isfinite(energy).all()) or bool((energy < 0).any()) or not bool((energy > 0).any()):
        raise ValueError(f"layer energies must be finite, not negative and not all zero; got {energy.tolist()}")
    scaled = energy / energy.max()  # the sum of large energies must not overflow
    return scaled / scaled.sum()


def entropy(share: Tensor) -> Tensor:
    """H = -sum_l p_l ln p_l of shares [L], in nats, with 0 ln 0 = 0; at most ln L."""
    terms: Tensor = torch.special.entr(working(share))
    return terms.sum()


def _transition_energy(student: Tensor, linked: Tensor) -> Tensor:
    counts = linked.sum(-1)  # [B]
    squares = transitions(student, linked).square().sum((-2, -1))  # [L, B]
    return mean_over_samples(squares / counts.clamp(min=1), counts > 0)


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
