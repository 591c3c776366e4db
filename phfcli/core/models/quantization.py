"""A frozen base in four or eight bits by bitsandbytes, with the adapter in full precision above it (QLoRA)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedConfig

from phfcli.core.errors import UserError

BITS = {"nf4": 4.127, "int8": 8.0}  # of a weight; nf4 with the constants of its blocks of 64, doubly quantised


def quantized_loading(name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What transformers is told so that it loads linear layers in that form; nothing for "none".

    Raises:
        UserError: where bitsandbytes is not there.
    """
    if name == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise UserError(f"quantization: {name} needs bitsandbytes, which is not installed; pip install bitsandbytes")
    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if name == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    )
    return {"quantization_config": config, "device_map": {"": device}}  # it is quantised where it will be used


def keep_gradients(network: nn.Module) -> None:
    """Keeps bitsandbytes from packing four-bit weights for a CPU's inference.

    It packs them at the first pass without a gradient, for good, and a gradient never passes through them again.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_quantization(name: str, tuning: str, sharding: str, engine: str) -> None:
    """Raises UserError for what does not go together with a quantised base."""
    if name == "none":
        return
    if tuning == "full":
        raise UserError(f"quantization: {name} is of a frozen base; with tuning=full all weights train")
    if sharding != "none":
        raise UserError(f"quantization: {name} does not go with sharding={sharding}; a quantised base is small enough")
    if engine not in ("auto", "transformers"):
        raise UserError(f"quantization: {name} is loaded by transformers alone; use rollout.engine=transformers")


def comes_quantized(config: PreTrainedConfig) -> str | None:
    """The method in which a model's own files are quantised, if they are."""
    about = getattr(config, "quantization_config", None)
    if about is None:
        return None
    return str(about.get("quant_method") if isinstance(about, dict) else getattr(about, "quant_method", "unknown"))
