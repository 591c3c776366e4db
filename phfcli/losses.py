"""The public mathematics of Privileged Hidden Flow, for any trainer: `from phfcli.losses import flow_terms, flow_loss`.

Pure functions of tensors on any device: float32 inside (float64 for float64), the gradient to the student only.
"""

from phfcli.core.losses.divergence import Contrast, contrast_logits, divergence, sampled_reverse_kl
from phfcli.core.losses.flow import (
    FlowTerms,
    RolloutMeasures,
    entropy,
    flow_loss,
    flow_terms,
    layer_energies,
    layer_energy_share,
    measure_rollout,
)
from phfcli.core.losses.fused_divergence import ClipStats, fused_divergence, fused_divergence_stats
from phfcli.core.losses.head import Head
from phfcli.core.losses.pointwise import (
    Attention,
    StateLoss,
    attention_divergence,
    mean_cosine,
    pointwise_loss,
    sampled_keys,
)
from phfcli.core.losses.policy_gradient import clipped_surrogate, group_advantages, token_logprobs, truncated_weights
from phfcli.core.losses.positions import select_positions

__all__ = [
    "Attention",
    "ClipStats",
    "Contrast",
    "FlowTerms",
    "Head",
    "RolloutMeasures",
    "StateLoss",
    "attention_divergence",
    "clipped_surrogate",
    "contrast_logits",
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
    "measure_rollout",
    "pointwise_loss",
    "sampled_keys",
    "sampled_reverse_kl",
    "select_positions",
    "token_logprobs",
    "truncated_weights",
]
