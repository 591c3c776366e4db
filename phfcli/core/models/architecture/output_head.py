"""The head of a model with what its code does to the product, as far as its config tells."""

from typing import Any

from transformers import PreTrainedModel

from phfcli.core.losses.head import Head
from phfcli.core.models.architecture.sizes import text_config

_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite


def head_of(causal: PreTrainedModel) -> Head:
    """The model's head. What its code does beyond what is known here is found by `self_check`."""
    layer: Any = causal.get_output_embeddings()
    config = text_config(causal.config)
    scale = 1.0
    for name in _FACTORS:
        scale *= _number(config, name) or 1.0
    for name in _DIVISORS:
        scale /= _number(config, name) or 1.0
    cap = next((value for name in _SOFT_CAPS if (value := _number(config, name))), None)
    return Head(layer.weight, getattr(layer, "bias", None), scale, cap)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None else float(value)
