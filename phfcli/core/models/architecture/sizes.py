"""The sizes of a model as its config states them, whichever of its many forms it has."""

from typing import Any

from transformers import PreTrainedConfig

UNBOUNDED = 2**31 - 1  # tokens: a state-space model has no longest sequence
_CONTEXTS = ("max_position_embeddings", "max_seq_len", "seq_length")
_WITHOUT_CACHE = ("linear_attention", "conv", "mamba", "moe", "mlp", "recurrent")  # layers with a state of one size


def text_config(config: PreTrainedConfig) -> Any:
    """The sizes of the text model, which a multimodal model keeps in a config of their own."""
    return config.get_text_config(decoder=True)


def depth_of(config: PreTrainedConfig) -> int:
    """How many decoder blocks a config speaks of."""
    return int(text_config(config).num_hidden_layers)


def width_of(config: PreTrainedConfig) -> int:
    """The size of a hidden state."""
    return int(text_config(config).hidden_size)


def context_of(config: PreTrainedConfig) -> int:
    """The longest sequence that a model was made for, in tokens."""
    text = text_config(config)
    return next((int(value) for name in _CONTEXTS if (value := getattr(text, name, None))), UNBOUNDED)


def caps_attention(config: PreTrainedConfig) -> bool:
    """Whether attention's own logits are capped, as Gemma 2's are: PyTorch's sdpa leaves that out without a word."""
    return getattr(text_config(config), "attn_logit_softcapping", None) is not None


def attends_in_part(config: PreTrainedConfig) -> bool:
    """Whether some layers do not attend to all earlier tokens: windows, chunks, or a state in place of attention."""
    text = text_config(config)
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    kinds = set(getattr(text, "layer_types", None) or [])
    return bool(window or getattr(text, "attention_chunk_size", None) or kinds - {"full_attention"})


def cache_row_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of keys and values for each token of a sequence."""
    text, depth = text_config(config), depth_of(config)
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ["attention"] * depth
    layers = list(text.per_layer_config) if getattr(text, "per_layer_attributes", None) else [text] * depth
    cached = (_cached(layer) for layer, kind in zip(layers, kinds, strict=False) if kind not in _WITHOUT_CACHE)
    return itemsize * sum(cached)


def _cached(layer: Any) -> int:
    """Numbers that a layer keeps of each token."""
    heads = getattr(layer, "num_attention_heads", None)
    if not heads:
        return 0
    if getattr(layer, "kv_lora_rank", None):  # transformers keeps latent attention's keys and values unfolded
        return int(heads * (layer.qk_nope_head_dim + layer.qk_rope_head_dim + layer.v_head_dim))
    head_dim = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    return int(2 * (getattr(layer, "num_key_value_heads", None) or heads) * head_dim)
