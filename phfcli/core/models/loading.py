"""Loads a model on its device and refuses one that the method cannot be applied to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from phfcli.core.config import ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.architecture import find_blocks
from phfcli.core.models.description import (
    attends_in_part,
    caps_attention,
    load_description,
    pick_device,
    pick_dtype,
    skeleton,
    width_of,
)
from phfcli.core.models.device import give_back_free_blocks, keep_large_blocks
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import load_adapter
from phfcli.core.models.weights import keep_gradients, load_weights, quantized_loading

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
    attention = pick_attention(settings.attention, device, dtype, description.config)
    find_blocks(skeleton(description.config))  # refuses a config that describes no model, before any weight
    options = quantized_loading(settings.quantization, dtype, device)
    if attention:
        options["attn_implementation"] = attention
    causal: Any = load_weights(settings.model, description.config, dtype=dtype, **options)
    keep_gradients(causal)
    turn_off_dropout(causal)
    if causal.device.type != device.type:
        causal = causal.to(device)
    if device.type == "cpu" and width_of(causal.config) <= ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    elif device.type == "cpu":
        give_back_free_blocks()
        keep_large_blocks()
    # only where a completion ends is kept: a model's own sampling defaults must not leak into a protocol
    causal.generation_config = GenerationConfig(
        eos_token_id=sorted(description.eos_ids), pad_token_id=description.pad_id
    )
    network = causal.eval() if adapter is None else load_adapter(causal, adapter)
    return LanguageModel(network, causal, description)


def turn_off_dropout(network: nn.Module) -> None:
    """What trains is then the policy that has drawn the rollouts, and a pass is the same whenever it is made."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():  # what attention and others hand to functions
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(module, name, 0.0)


def pick_attention(name: str, device: torch.device, dtype: torch.dtype, config: PreTrainedConfig) -> str | None:
    """The attention of that name; "auto" is FlashAttention 2 for models that want padded rows, where it is installed.

    Else it is None, transformers' choice: PyTorch's own (sdpa) for any model that it knows. With that, sequences are
    packed and what they begin with is computed once; FlashAttention skips padded columns and takes no float32.

    Raises:
        UserError: for sdpa where attention's own logits are capped, which it does not compute.
    """
    capped = caps_attention(config)
    if capped and name == "sdpa":
        raise UserError("attention: sdpa leaves out the cap on the attention logits of this model; use attention=eager")
    if name != "auto":
        return name
    able = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    flash = able and (capped or attends_in_part(config))
    return "flash_attention_2" if flash else "eager" if capped else None


def load_whole(settings: ModelSettings) -> LanguageModel:
    """A model whose every parameter trains.

    Its weights are float32, whatever precision is computed in: steps at a learning rate of 5e-6, and all the more those
    of an average that follows by a thousandth, would vanish in the rounding of bfloat16.
    """
    model = load_model(settings.model_copy(update={"dtype": "float32"}))
    model.causal.requires_grad_(True)
    compute = pick_dtype(settings.dtype, model.device)
    return model if compute == torch.float32 else replace(model, compute=compute)
