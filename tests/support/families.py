"""Tiny random models of the families that users bring: their sizes, and how one is written to a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from phfcli.core.models.description import load_description

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """An architecture by its `model_type`, and what of its sizes differs from the common ones.

    Attributes:
        kind: its name in transformers.
        stands_for: models of it that users bring.
        changes: settings of its config; None takes a common one away.
        text: settings of the text model nested in a multimodal wrapper.
    """

    kind: str
    stands_for: str
    changes: Options = field(default_factory=dict)
    text: Options | None = None


WINDOW = 16  # tokens that a layer with a window attends to: fewer than the sequences of the tests have
_COMMON: Options = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.15,
}
_GPT: Options = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}
_EXPERTS: Options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR: Options = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_VISION: Options = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_QWEN_VISION: Options = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
}
_LATENT: Options = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_HYBRID_LAYERS = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]

FAMILIES: tuple[Family, ...] = (
    Family("qwen3", "Qwen3, the published models", {"head_dim": 8}),
    Family("qwen2", "Qwen2.5, DeepSeek-R1-Distill-Qwen"),
    Family("llama", "Llama 3, SmolLM2, DeepSeek-R1-Distill-Llama"),
    Family("mistral", "Mistral, Ministral", {"head_dim": 8, "sliding_window": WINDOW}),
    Family("ministral3", "Ministral 3", {"head_dim": 8, "sliding_window": WINDOW}),
    Family("smollm3", "SmolLM3"),
    Family("olmo2", "OLMo 2"),
    Family("gemma", "Gemma", {"head_dim": 8, "tie_word_embeddings": True}),
    Family(
        "gemma2",
        "Gemma 2",
        {
            "head_dim": 8,
            "tie_word_embeddings": True,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
        },
    ),
    Family("gemma3_text", "Gemma 3 1B", {"head_dim": 8, "tie_word_embeddings": True, "sliding_window": WINDOW}),
    Family("phi3", "Phi-3, Phi-4-mini", {"pad_token_id": 0, "sliding_window": WINDOW}),
    Family("phi", "Phi-1.5, Phi-2"),
    Family("granite", "Granite 3", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
    Family("cohere2", "Command R7B, Aya", {"logit_scale": 0.25, "head_dim": 8, "sliding_window": WINDOW}),
    Family("glm4", "GLM-4", {"head_dim": 8, "pad_token_id": 0}),
    Family("starcoder2", "StarCoder2", {"sliding_window": WINDOW}),
    Family("stablelm", "StableLM 2"),
    Family("gpt2", "GPT-2", _GPT),
    Family("gptj", "GPT-J", {**_GPT, "rotary_dim": 4}),
    Family("gpt_neox", "Pythia, GPT-NeoX"),
    Family("falcon", "Falcon 7B", {"new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    Family("opt", "OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 0}),
    Family("mixtral", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}),
    Family("phimoe", "Phi-3.5-MoE", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW}),
    Family("qwen3_moe", "Qwen3-30B-A3B", {"head_dim": 8, **_EXPERTS}),
    Family("olmoe", "OLMoE", {"num_experts": 4, "num_experts_per_tok": 2}),
    Family(
        "gpt_oss",
        "gpt-oss",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    Family("deepseek_v3", "DeepSeek-V3, Kimi, Moonlight", _LATENT),
    Family(
        "qwen3_next",
        "Qwen3-Next",
        {"head_dim": 8, **_EXPERTS, "shared_expert_intermediate_size": 16, "layer_types": _HYBRID_LAYERS, **_LINEAR},
    ),
    Family(
        "lfm2",
        "LFM2",
        {"layer_types": ["conv", "conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
    ),
    Family(
        "mamba2",
        "Mamba 2, Codestral Mamba",
        {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 16},
    ),
    Family(
        "jamba",
        "Jamba",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "use_mamba_kernels": False,
        },
    ),
    Family(
        "gemma3",
        "Gemma 3 4B and larger",
        {"vision_config": {**_VISION, "image_size": 28, "patch_size": 14}},
        {"head_dim": 8, "sliding_window": WINDOW},
    ),
    Family(
        "qwen2_5_vl",
        "Qwen2.5-VL",
        {"vision_config": _QWEN_VISION},
        {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    ),
    Family(
        "qwen3_5",
        "Qwen3.5",
        {"vision_config": _QWEN_VISION},
        {"head_dim": 8, "layer_types": _HYBRID_LAYERS, **_LINEAR},
    ),
)


def config_of(family: Family, **changes: Any) -> Any:
    """The architecture, tiny, with the vocabulary of the embedded tokenizer."""
    embedded = load_description("embedded")
    ends = {"vocab_size": len(embedded.tokenizer), "eos_token_id": sorted(embedded.eos_ids)[0], "bos_token_id": None}
    sizes = {**_COMMON, **ends, "pad_token_id": embedded.pad_id}
    if family.text is None:
        return AutoConfig.for_model(family.kind, **{**sizes, **family.changes, **changes})
    return AutoConfig.for_model(
        family.kind, text_config={**sizes, **family.text, **changes}, tie_word_embeddings=False, **family.changes
    )


def build(family: Family, seed: int = 0, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    kind = AutoModelForCausalLM if family.text is None else AutoModelForImageTextToText
    model: PreTrainedModel = kind.from_config(config_of(family, **changes)).eval()
    return model


def write(family: Family, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The model and the embedded tokenizer as a user's folder."""
    build(family, seed, **changes).save_pretrained(folder)
    load_description("embedded").tokenizer.save_pretrained(folder)
    return folder


def family(kind: str) -> Family:
    return next(one for one in FAMILIES if one.kind == kind)
