"""Reads, checks and quantises the weights of a model, and predicts the memory that they take."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from phfcli.core.errors import UserError
from phfcli.core.models.description import auto_class, from_hub, locate

BITS = {"nf4": 4.127, "int8": 8.0}  # of a weight; nf4's include the doubly quantised constants of its blocks of 64


def quantized_loading(name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The options with which transformers loads quantised linear layers; none for the name "none".

    Raises:
        UserError: where bitsandbytes is not installed.
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
    return {"quantization_config": config, "device_map": {"": device}}  # quantised on the device that computes


def keep_gradients(network: nn.Module) -> None:
    """Keeps bitsandbytes from repacking four-bit weights for a CPU's inference.

    It repacks them at the first pass without a gradient, for good, and no gradient passes through repacked weights.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_quantization(name: str, tuning: str, sharding: str, engine: str) -> None:
    """Raises UserError for settings that exclude a quantised base."""
    if name == "none":
        return
    if tuning == "full":
        raise UserError(
            f"quantization: {name} needs a frozen base, and with tuning=full all weights train; use tuning=lora"
        )
    if sharding != "none":
        raise UserError(
            f"quantization: {name} excludes sharding={sharding}; a quantised base is small enough for sharding=none"
        )
    if engine not in ("auto", "transformers"):
        raise UserError(f"quantization: {name} is loaded by transformers only; use rollout.engine=transformers")


def quantization_method(config: PreTrainedConfig) -> str | None:
    """The method by which a model's files are quantised; None where they are not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return str(found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", "unknown"))


_PART = 2**22  # numbers that are checked at once
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FAULTS = {
    "missing_keys": "has no weights for",
    "unexpected_keys": "has weights that its config.json does not describe:",
    "mismatched_keys": "has weights of another shape than its config.json says for",
}


def load_weights(name: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """The model with its weights, on the CPU.

    Raises:
        UserError: naming a tensor, where any is missing, unexpected, of another shape or not finite.
    """
    model = _complete(name, config, **options)
    check_finite(name, model.named_parameters())
    return model


def check_files(name: str, config: PreTrainedConfig) -> None:
    """Checks the weights that another program (vLLM) is going to load: each tensor is read once, and none is kept.

    A quantised checkpoint is not checked.

    Raises:
        UserError: as `load_weights` does.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    _complete(name, config, device_map={"": "meta"})
    for file in sorted(Path(locate(name)).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            check_finite(name, ((key, tensors.get_tensor(key)) for key in tensors.keys()))  # noqa: SIM118 - no mapping


def _complete(name: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """The model with every tensor that its config asks for, and no other."""
    check_format(name)
    model: PreTrainedModel
    model, loading_info = from_hub(
        auto_class(config).from_pretrained,
        name,
        "weights",
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # check_complete then names the tensor
        **options,
    )
    check_complete(name, loading_info)
    return model


def check_format(name: str) -> None:
    """Raises UserError for a folder whose only weights are pickles."""
    where = Path(locate(name))
    if any(where.glob("*.bin")) and not any(where.glob("*.safetensors")):
        raise UserError(
            f"{name}: its weights are pickles (.bin), which run code when they are read; only safetensors are: convert "
            "them with transformers' save_pretrained"
        )


def check_complete(name: str, loading_info: Mapping[str, Any]) -> None:
    """Raises UserError, naming the first tensor, unless the files hold exactly the tensors of the model."""
    for fault, words in _FAULTS.items():
        tensors = sorted(key if isinstance(key, str) else str(key[0]) for key in loading_info.get(fault) or ())
        if tensors:
            more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            raise UserError(f"{name}: it {words} {tensors[0]}{more}; its files do not belong together")


def check_finite(name: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises UserError, naming the tensor, for a number that is NaN or infinite."""
    for key, tensor in tensors:
        if tensor.dtype in _FLOATS and not _finite(tensor.detach()):
            raise UserError(f"{name}: {key} holds numbers that are not finite; the file is damaged")


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite. A finite sum proves it; only where a sum is not is each number checked."""
    return all(
        bool(part.sum(dtype=torch.float64 if part.dtype == torch.float64 else torch.float32).isfinite())
        or bool(part.isfinite().all())
        for part in tensor.reshape(-1).split(_PART)
    )


_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def weights_memory(name: str, causal: PreTrainedModel, dtype: torch.dtype, quantization: str, mapped: bool) -> int:
    """Bytes that the frozen weights take.

    On a CPU a tensor in the precision of its file is a view of the file, which is mapped into memory as a whole.
    Joined experts, weights in another precision and quantised weights are copies.

    Args:
        causal: the model on the meta device.
        mapped: whether the model stays on a CPU, so that its files are mapped.
    """
    quantised = {} if quantization == "none" else _linear_layers(causal)
    size = bytes_of(causal) - sum(_bytes_saved(module.weight, quantization) for module in quantised.values())
    folder = Path(locate(name))
    if not (mapped and folder.is_dir()):
        return size
    unquantised = {key: p for key, p in causal.named_parameters() if key.removesuffix(".weight") not in quantised}
    for file in folder.glob("*.safetensors"):
        views = [unquantised[key] for key in _names(file, dtype) if key in unquantised]
        if views:
            size += file.stat().st_size - sum(p.numel() * p.itemsize for p in views)
    return size


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.itemsize for p in model.parameters())


def _linear_layers(causal: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers that are quantised: every linear layer except the head."""
    head = causal.get_output_embeddings()
    return {name: m for name, m in causal.named_modules() if isinstance(m, nn.Linear) and m is not head}


def _bytes_saved(weight: Tensor, quantization: str) -> int:
    """Bytes by which quantising makes a weight smaller."""
    return int(weight.numel() * (weight.itemsize - BITS[quantization] / 8))


def _names(file: Path, dtype: torch.dtype) -> list[str]:
    """The names of the tensors of a file in that precision."""
    with safe_open(file, framework="pt") as tensors:
        names: list[str] = tensors.keys()
        return [name for name in names if tensors.get_slice(name).get_dtype() == _DTYPES.get(dtype)]
