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
    skeleton,
    width_of,
)
from phfcli.core.models.device import (
    give_back_free_blocks,
    is_cuda,
    keep_large_blocks,
    pick_device,
    pick_dtype,
)
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import load_adapter
from phfcli.core.models.weights import keep_gradients, load_weights, quantized_loading

# hidden size up to which a CPU computes on one thread: several threads would mostly wait for each other
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
    # of the generation config only the end tokens are kept: sampling defaults must not leak into a protocol
    causal.generation_config = GenerationConfig(
        eos_token_id=sorted(description.eos_ids), pad_token_id=description.pad_id
    )
    network = causal.eval() if adapter is None else load_adapter(causal, adapter)
    return LanguageModel(network, causal, description)


def turn_off_dropout(network: nn.Module) -> None:
    """Sets every dropout to 0: the policy that trains is then the one that drew the rollouts, and passes repeat."""
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():  # attributes that modules hand to functions
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(module, name, 0.0)


def pick_attention(name: str, device: torch.device, dtype: torch.dtype, config: PreTrainedConfig) -> str | None:
    """The attention implementation for a setting; None leaves the choice to transformers, which takes sdpa.

    With sdpa sequences are packed, and a shared prefix is computed once. "auto" is FlashAttention 2 only for models
    with a window, a cap or a state, on a GPU where it is installed: it skips padded columns, and takes no float32.

    Raises:
        UserError: for sdpa where attention logits are capped, since sdpa leaves the cap out.
    """
    capped = caps_attention(config)
    if capped and name == "sdpa":
        raise UserError("attention: sdpa leaves out the cap on the attention logits of this model; use attention=eager")
    if name != "auto":
        return name
    available = is_cuda(device) and dtype != torch.float32 and is_flash_attn_2_available()
    flash = available and (capped or attends_in_part(config))
    return "flash_attention_2" if flash else "eager" if capped else None


def load_whole(settings: ModelSettings) -> LanguageModel:
    """A model of which every parameter trains.

    Its weights are float32 whatever the precision of its products: steps at a learning rate of 5e-6, and even more the
    small steps of a moving average, would be lost to rounding in bfloat16.
    """
    model = load_model(settings.model_copy(update={"dtype": "float32"}))
    model.causal.requires_grad_(True)
    compute = pick_dtype(settings.dtype, model.device)
    return model if compute == torch.float32 else replace(model, compute=compute)
