"""The hidden flow of a rollout: how its hidden states move from position to position (PHF, arXiv 2606.29340).

Equation numbers are the paper's. S is the student, T the teacher; both read the same completion.

    (4)  dh_i = h_{w_{i+1}} - h_{w_i}                                    `transitions`
    (5)  d_i = dh_i / (|dh_i| + eps)                                     `directions`
    (6)  L_dir(l) = mean_i (1 - <dS_i, dT_i>)                            `_direction_loss`
    (7)  L_geo(l) = |D_S D_S^T - D_T D_T^T|_F^2 / (m-1)^2                `_gram_loss` of a layer with itself
    (8)  L_layer(l) = (L_dir(l) + L_geo(l)) / 2                          `layer_losses`
    (9)  C_{l,l+1} = D_l D_{l+1}^T                                       `_gram_loss` of neighbouring layers
    (10) L_adj = mean_l |C_S - C_T|_F^2 / (m-1)^2                        the mean of `FlowTerms.adjacent`
    (12) L_local = mean_l L_layer(l)                                     `flow_loss(terms, adjacent=False)`
    (13) L_flow = L_local / 2 + L_adj / 2                                `flow_loss(terms)`

Shapes: L layers, B samples, m selected positions, n = m - 1 transitions, d hidden size.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from phfcli.core.losses.positions import check_states, mean_over_samples, to_mean_1, working

Local = Literal["both", "direction", "geometry", "half-direction", "half-geometry"]
Energy = Literal["loss", "direction", "geometry", "transition"]

# the weights of L_dir and L_geo in each layer's loss, where only one of the two is kept
_ABLATIONS = {
    "direction": (1.0, 0.0),
    "geometry": (0.0, 1.0),
    "half-direction": (0.5, 0.0),
    "half-geometry": (0.0, 0.5),
}
_DOWNSCALE = 2.0**-80  # a power of two, so that scaling rounds nothing
_SMALLEST_HSIC = 4  # positions: the unbiased estimator divides by m - 3


class FlowTerms(NamedTuple):
    """The terms of the flow loss, each the mean over the samples with at least one transition; zero if there are none.

    `flow_loss` combines them. All but `samples` carry the gradient to the student.
    """

    direction: Tensor  # [L]    L_dir, eq. 6
    geometry: Tensor  # [L]    L_geo, eq. 7
    adjacent: Tensor  # [L-1]  the summands of L_adj, eq. 10: entry l relates layers l and l + 1
    samples: Tensor  # 0-dim int64, the samples with at least one transition


def flow_terms(
    student: Tensor, teacher: Tensor, valid: Tensor, eps: float = 1e-8, weights: Tensor | None = None
) -> FlowTerms:
    """The direction loss (eq. 6), the geometry loss (eq. 7) and the adjacent-layer loss (eq. 10) of every layer.

    The gradient flows to `student` only.

    Args:
        student, teacher: [L, B, m, d] outputs of the decoder blocks at the selected positions, in any floating dtype;
            the computation is in float32 (float64 for float64).
        valid: [B, m] bool. A transition joins two neighbouring slots that are both valid.
        eps: the epsilon of eq. 5, in the unit of the hidden states.
        weights: [B, m] weights of the positions, or None for equal weights. A transition has the weight of the position
            that it leads to, a pair of transitions the product of the two weights. The weights are scaled to the mean 1
            over the transitions of each sample.

    Returns:
        FlowTerms, with `direction` and `geometry` [L] and `adjacent` [L-1].

    Raises:
        ValueError: shapes that do not fit.
    """
    check_states(student, teacher, valid)
    linked = transition_mask(valid)
    student_D = directions(student, linked, eps)
    teacher_D = directions(teacher.detach(), linked, eps)
    counts = linked.sum(-1)  # [B], each m - 1
    transition_weights = linked.to(student_D.dtype) if weights is None else _transition_weights(weights, linked)
    if weights is not None:  # each factor of a product carries the square root, so the product carries the weight
        student_D, teacher_D = (D * transition_weights.sqrt()[None, :, :, None] for D in (student_D, teacher_D))
    return FlowTerms(
        direction=_direction_loss(student_D, teacher_D, transition_weights.sum(-1), counts),
        geometry=_gram_loss((student_D, student_D), (teacher_D, teacher_D), counts),
        adjacent=_gram_loss((student_D[:-1], student_D[1:]), (teacher_D[:-1], teacher_D[1:]), counts),
        samples=(counts > 0).sum(),
    )


def flow_loss(terms: FlowTerms, adjacent: bool = True, local: Local = "both") -> Tensor:
    """L_flow = L_local / 2 + L_adj / 2 (eq. 13), or L_local alone (eq. 12) where `adjacent` is False; 0-dim.

    Args:
        terms: the result of `flow_terms`.
        adjacent: whether L_adj (eq. 10) is part of the loss. With one layer there are no neighbours and L_adj is zero.
        local: which part of L_layer (eq. 8) is kept. "direction" and "geometry" put L_dir or L_geo in the place of
            L_layer; "half-direction" and "half-geometry" keep the weight 1/2 that the part has in eq. 8. The paper's
            words for its ablations (appendix F) admit both readings.

    Raises:
        ValueError: an unknown `local`.
    """
    local_loss = layer_losses(terms, local).mean()  # eq. 12
    if not adjacent:
        return local_loss
    adjacent_loss = terms.adjacent.sum() / max(1, len(terms.adjacent))  # eq. 10
    return (local_loss + adjacent_loss) / 2  # eq. 13


def layer_losses(terms: FlowTerms, local: Local = "both") -> Tensor:
    """L_layer = (L_dir + L_geo) / 2 (eq. 8) of each layer, [L], or the one part that `local` names (see `flow_loss`).

    Raises:
        ValueError: an unknown `local`.
    """
    if local == "both":
        return (terms.direction + terms.geometry) / 2  # eq. 8
    if local not in _ABLATIONS:
        raise ValueError(f"local must be both, {', '.join(_ABLATIONS)}; got {local!r}")
    direction, geometry = _ABLATIONS[local]
    return terms.direction * direction if direction else terms.geometry * geometry


def transition_mask(valid: Tensor) -> Tensor:
    """[B, m] -> [B, m-1] bool: True for a transition of which both ends are valid."""
    return valid[:, 1:] & valid[:, :-1]


def transitions(states: Tensor, linked: Tensor) -> Tensor:
    """The transitions dh_i (eq. 4), [L, B, m, d] -> [L, B, m-1, d], in the working precision.

    A transition that `linked` [B, m-1] excludes is zero and has no gradient.
    """
    states = working(states)
    return (states[:, :, 1:] - states[:, :, :-1]).masked_fill(~linked[None, :, :, None], 0)  # eq. 4


def directions(states: Tensor, linked: Tensor, eps: float | Tensor) -> Tensor:
    """The directions d_i (eq. 5), [L, B, m, d] -> [L, B, m-1, d].

    A direction is zero, without a gradient, where `linked` excludes the transition or the transition has length zero.
    """
    delta = transitions(states, linked)
    length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    overflowed = length.isinf()  # |dh|^2 may overflow float32 although |dh| does not
    # a scaled transition has the same direction; to ask whether one is needed would wait for the device
    if states.device.type != "cpu" or bool(overflowed.any()):
        scale = torch.where(overflowed, _DOWNSCALE, 1.0)
        delta, eps = delta * scale, eps * scale
        length = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    # eq. 5; where the length is zero the divisor is inf, so value and gradient are zero instead of 1 / eps
    return delta / torch.where(length > 0, length + eps, torch.inf)


def _transition_weights(weights: Tensor, linked: Tensor) -> Tensor:
    """[B, m] -> [B, m-1]: weights with the mean 1 over a sample's transitions; all 0 where every weight is 0."""
    arriving = working(weights)[:, 1:].masked_fill(~linked, 0)
    return to_mean_1(arriving, arriving.sum(-1, keepdim=True), linked.sum(-1, keepdim=True))


def _direction_loss(student_D: Tensor, teacher_D: Tensor, weight_sums: Tensor, counts: Tensor) -> Tensor:
    """L_dir(l) = mean_i (1 - <dS_i, dT_i>) (eq. 6), mean over samples: directions [L, B, m-1, d] -> [L].

    weight_sums: [B], the sum of the weights of a sample's transitions; without weights their number.
    counts: [B], the number m - 1 of a sample's transitions.
    """
    cosines = (student_D * teacher_D).sum((-2, -1))  # [L, B]: sum_i <dS_i, dT_i>; an excluded transition adds zero
    return mean_over_samples((weight_sums - cosines) / counts.clamp(min=1), counts > 0)  # eq. 6


def _gram_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], counts: Tensor) -> Tensor:
    """|A_S B_S^T - A_T B_T^T|_F^2 / (m-1)^2 of pairs (A, B) of directions [L', B, m-1, d], mean over samples: [L'].

    With A = B = D_l this is the geometry loss L_geo (eq. 7), with A = D_l and B = D_{l+1} a summand of L_adj (eq. 10).
    """
    with torch.autocast(student[0].device.type, enabled=False):  # autocast would compute the products in bfloat16
        difference = student[0] @ student[1].mT - teacher[0] @ teacher[1].mT  # [L', B, m-1, m-1], eq. 7 or eq. 9
    return mean_over_samples(difference.square().sum((-2, -1)) / counts.clamp(min=1).square(), counts > 0)


def terms_of_blocks(terms: FlowTerms, captured: Sequence[int], chosen: Sequence[int]) -> FlowTerms:
    """The terms of the `chosen` decoder blocks, where `terms` holds those of the `captured` ones.

    `adjacent` keeps the relation of each chosen block with the very next block of the model (eq. 9), for the chosen
    blocks that have a next one. Both sequences ascend; `captured` holds the chosen blocks and the block after each.
    """
    kept = [captured.index(block) for block in chosen]
    related = [captured.index(block) for block in chosen if block + 1 in captured]
    return FlowTerms(terms.direction[kept], terms.geometry[kept], terms.adjacent[related], terms.samples)


def layer_energies(student: Tensor, teacher: Tensor, valid: Tensor, kind: Energy = "loss") -> Tensor:
    """The energy e_l of each layer, [L]. The paper does not define its energy; "loss" is our reading.

    Args:
        student, teacher: [L, B, m, d] outputs of the decoder blocks.
        valid: [B, m] bool.
        kind: "loss" is L_layer (eq. 8), "direction" L_dir (eq. 6), "geometry" L_geo (eq. 7). "transition" is |dh|^2 of
            the STUDENT's transitions (eq. 4), the mean over a sample's transitions, then over samples.

    Raises:
        ValueError: an unknown kind, or shapes that do not fit.
    """
    if kind not in get_args(Energy):
        raise ValueError(f"energy must be one of {', '.join(get_args(Energy))}; got {kind!r}")
    if kind == "transition":
        check_states(student, teacher, valid)
        return _transition_energy(student, transition_mask(valid))
    return layer_losses(flow_terms(student, teacher, valid), "both" if kind == "loss" else kind)


def _transition_energy(student: Tensor, linked: Tensor) -> Tensor:
    """[L, B, m, d] -> [L]: the mean of |dh_i|^2 (eq. 4) over a sample's transitions, then over samples."""
    counts = linked.sum(-1)  # [B]
    squares = transitions(student, linked).square().sum((-2, -1))  # [L, B]
    return mean_over_samples(squares / counts.clamp(min=1), counts > 0)


def layer_energy_share(energy: Tensor) -> Tensor:
    """Each layer's share of the energy, p_l = e_l / sum_k e_k: [L] -> [L].

    Raises:
        ValueError: an energy that is negative or not finite, or all of them zero.
    """
    energy = working(energy)
    if not bool(torch.isfinite(energy).all()) or bool((energy < 0).any()) or not bool((energy > 0).any()):
        raise ValueError(f"layer energies must be finite, not negative and not all zero; got {energy.tolist()}")
    scaled = energy / energy.max()  # so that the sum of large energies does not overflow
    return scaled / scaled.sum()


def entropy(share: Tensor) -> Tensor:
    """H = -sum_l p_l ln p_l of shares [L], 0-dim, in nats, with 0 ln 0 = 0; at most ln L."""
    terms: Tensor = torch.special.entr(working(share))
    return terms.sum()


class RolloutMeasures(NamedTuple):
    """What `measure_rollout` measures along one rollout of m positions and n = m - 1 transitions.

    A first axis of 2 is student, teacher.
    """

    direction: Tensor  # [L, n]    1 - <dS_i, dT_i>; the mean over i is eq. 6
    geometry: Tensor  # [L, n]    sum_j (G_S - G_T)_ij^2 / (m-1); the mean over i is eq. 7
    adjacent: Tensor  # [L-1]    the summands of eq. 10
    squares: Tensor  # [2, L, n]    |dh_i|^2, eq. 4
    rank: Tensor  # [2, L]    effective rank of the directions
    cosine: Tensor  # [L, m]    of the student's state and the teacher's
    hsic: Tensor | None  # [3, L]    HSIC(S, T), HSIC(S, S), HSIC(T, T); None for fewer than four positions


def measure_rollout(student: Tensor, teacher: Tensor, eps: float = 1e-8) -> RolloutMeasures:
    """Measures along one rollout, per transition where the loss takes the mean over them.

    Args:
        student, teacher: [L, m, d] outputs of the decoder blocks at m >= 2 positions, all of them valid.
        eps: the epsilon of eq. 5.

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
    neighbours = D[0][:-1] @ D[0][1:].mT - D[1][:-1] @ D[1][1:].mT  # [L-1, n, n], eq. 9
    return RolloutMeasures(
        direction=(1 - (D[0] * D[1]).sum(-1)).clamp(min=0),  # eq. 6; rounding alone can make it negative
        geometry=(grams[0] - grams[1]).square().sum(-1) / n,  # eq. 7
        adjacent=neighbours.square().sum((-2, -1)) / n**2,  # eq. 10
        squares=torch.stack(squares),
        rank=torch.stack([effective_rank(gram) for gram in grams]),
        cosine=F.cosine_similarity(working(student), working(teacher), dim=-1),
        hsic=None if n + 1 < _SMALLEST_HSIC else _hsics(student, teacher),
    )


def effective_rank(gram: Tensor) -> Tensor:
    """exp H of a Gram matrix's eigenvalues over their sum, [..., n, n] -> [...]: 1 for one line, n for n orthogonal.

    This is the effective rank of Roy and Vetterli (2007) with squared singular values in the place of singular values,
    because the small singular values are rounding errors here. A matrix of zeros has rank 0.
    """
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = values.sum(-1, keepdim=True)
    spectral_entropy: Tensor = torch.special.entr(values / torch.where(total > 0, total, 1)).sum(-1)
    return torch.where(total[..., 0] > 0, spectral_entropy.exp(), 0)


def _hsics(student: Tensor, teacher: Tensor) -> Tensor:
    """[L, m, d] -> [3, L]: the unbiased HSIC of linear kernels over the positions, of S and T, S and S, T and T.

    The ratio of their sums over many rollouts is a CKA that does not grow with the hidden size: Nguyen, Raghu and
    Kornblith (2021), eq. 3, with Song et al. (2012), eq. 5.
    """
    K, Q = (_centred_kernel(states) for states in (student, teacher))
    return torch.stack([(a * b).sum((-2, -1)) for a, b in ((K, Q), (K, K), (Q, Q))])


def _centred_kernel(states: Tensor) -> Tensor:
    """[L, m, d] -> [L, m, m]: the U-centred kernel with a zero diagonal, scaled so that products sum to an HSIC."""
    states = working(states)
    states = states - states.mean(1, keepdim=True)  # changes no HSIC, only makes the rounding errors smaller
    m = states.shape[1]
    diagonal = torch.eye(m, dtype=torch.bool, device=states.device)
    kernel = (states @ states.mT).masked_fill(diagonal, 0)
    rows = kernel.sum(-1, keepdim=True) / (m - 2)
    everything = kernel.sum((-2, -1), keepdim=True) / ((m - 1) * (m - 2))
    centred: Tensor = (kernel - rows - rows.mT + everything).masked_fill(diagonal, 0)
    return centred / math.sqrt(m * (m - 3))
