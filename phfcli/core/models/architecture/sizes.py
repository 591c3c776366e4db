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


def cache_row_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of keys and values for each token of a sequence."""
    text = text_config(config)
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        return 0
    if getattr(text, "kv_lora_rank", None):  # transformers keeps latent attention's keys and values unfolded
        width = heads * (text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim)
    else:
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        width = 2 * (getattr(text, "num_key_value_heads", None) or heads) * head_dim
    kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
    caching = depth_of(config) - sum(kind in _WITHOUT_CACHE for kind in kinds)
    return int(caching * width * itemsize)
