"""How the hidden flow is spread over depth: the energy of each layer, its share, and the entropy of the shares.

The PHF paper reports shares and entropies at a step and does not define energy. `loss` is our reading; the others are
offered beside it, and whoever prints a number says which energy it was. Shapes: L layers, B samples, m positions, d.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from phfcli.core.losses.hidden_states.flow import flow_terms, layer_losses, transition_mask, transitions
from phfcli.core.losses.shared import check_states, mean_over_samples, working

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
