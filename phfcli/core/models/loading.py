"""Loads a model on its device and refuses one that the method cannot be applied to."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.adapters import load_adapter
from phfcli.core.models.allocator import keep_large_blocks
from phfcli.core.models.description import from_hub, load_description, pick_device, pick_dtype
from phfcli.core.models.language_model import LanguageModel

# config fields under which logits are not simply head @ hidden, which the fused losses rely on
_LOGIT_TRANSFORMS = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}

# products this small only wait for each other on several threads: far slower wherever another program is at work
ONE_THREAD_WIDTH = 256


def load_model(settings: ModelSettings, adapter: Path | None = None) -> LanguageModel:
    """Loads a model on its device, in evaluation mode, with a saved adapter on top if one is given.

    Raises:
        UserError: where the model cannot be found or read, or the method cannot be applied to it.
    """
    description = load_description(settings.model)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    attention = pick_attention(settings.attention, device, dtype)
    causal: PreTrainedModel = from_hub(
        AutoModelForCausalLM.from_pretrained,
        settings.model,
        "model",
        trust_remote_code=False,
        dtype=dtype,
        **({"attn_implementation": attention} if attention else {}),
    ).to(device)
    check_supported(causal, settings.model)
    if device.type == "cpu" and causal.config.hidden_size <= ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    elif device.type == "cpu":
        keep_large_blocks()
    # only where a completion ends is kept: a model's own sampling defaults must not leak into a protocol
    causal.generation_config = GenerationConfig(
        eos_token_id=sorted(description.eos_ids), pad_token_id=description.pad_id
    )
    network = causal.eval() if adapter is None else load_adapter(causal, adapter)
    return LanguageModel(network, causal, description)


def pick_attention(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The attention of that name; "auto" is FlashAttention 2 where it is installed, else None: transformers' choice.

    That is PyTorch's own (sdpa) for any model that it knows; FlashAttention skips padded columns and takes no float32.
    """
    if name != "auto":
        return name
    flash = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    return "flash_attention_2" if flash else None


def load_whole(settings: ModelSettings) -> LanguageModel:
    """A model whose every parameter trains.

    Its weights are float32, whatever precision is computed in: steps at a learning rate of 5e-6, and all the more those
    of an average that follows by a thousandth, would vanish in the rounding of bfloat16.
    """
    model = load_model(settings.model_copy(update={"dtype": "float32"}))
    model.causal.requires_grad_(True)
    compute = pick_dtype(settings.dtype, model.device)
    return model if compute == torch.float32 else replace(model, compute=compute)


def check_supported(causal: PreTrainedModel, name: str) -> None:
    """Raises UserError for an architecture without blocks to watch, or whose logits are not a plain product."""
    if not isinstance(getattr(causal.get_decoder(), "layers", None), nn.ModuleList):
        raise UserError(f"{name}: {causal.config.model_type} has no list of decoder blocks to capture states from")
    head = causal.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(f"{name}: its LM head has a bias, which the fused divergence does not know")
    for field, neutral in _LOGIT_TRANSFORMS.items():
        if getattr(causal.config, field, None) not in (None, neutral):
            raise UserError(f"{name}: its config sets {field}, which the fused divergence does not know")
