"""The public mathematics of Privileged Hidden Flow, for any trainer: `from phfcli.losses import flow_terms, flow_loss`.

Pure functions of tensors on any device: float32 inside (float64 for float64), the gradient to the student only.
"""

from phfcli.core.losses.attention import Attention, attention_divergence, sampled_keys
from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.energy import entropy, layer_energies, layer_energy_share
from phfcli.core.losses.flow import FlowTerms, flow_loss, flow_terms
from phfcli.core.losses.fused import ClipStats, fused_divergence, fused_divergence_stats
from phfcli.core.losses.policy import clipped_surrogate, group_advantages, token_logprobs, truncated_weights
from phfcli.core.losses.sampled import sampled_reverse_kl
from phfcli.core.losses.states import StateLoss, mean_cosine, pointwise_loss
from phfcli.core.positions import select_positions

__all__ = [
    "Attention",
    "ClipStats",
    "FlowTerms",
    "StateLoss",
    "attention_divergence",
    "clipped_surrogate",
    "divergence",
    "entropy",
    "flow_loss",
    "flow_terms",
    "fused_divergence",
    "fused_divergence_stats",
    "group_advantages",
    "layer_energies",
    "layer_energy_share",
    "mean_cosine",
    "pointwise_loss",
    "sampled_keys",
    "sampled_reverse_kl",
    "select_positions",
    "token_logprobs",
    "truncated_weights",
]
