"""The weights of a model on disk: read, checked, quantised, and what memory they take."""

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


_PART = 2**22  # numbers looked at together
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FAULTS = {
    "missing_keys": "has no weights for",
    "unexpected_keys": "has weights that its config.json knows nothing of:",
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
    """Looks at the weights that another program is going to load: each tensor is read once, and none is kept.

    Those of a quantised checkpoint are left to that program.

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
    model, found = from_hub(
        auto_class(config).from_pretrained,
        name,
        "weights",
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # which is then told by name
        **options,
    )
    check_complete(name, found)
    return model


def check_format(name: str) -> None:
    """Raises UserError for a folder whose only weights are pickles."""
    where = Path(locate(name))
    if any(where.glob("*.bin")) and not any(where.glob("*.safetensors")):
        raise UserError(
            f"{name}: its weights are pickles (.bin), which run code when they are read; only safetensors are: convert "
            "them with transformers' save_pretrained"
        )


def check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Raises UserError, naming the first tensor, unless what was found is what the model has."""
    for fault, words in _FAULTS.items():
        tensors = sorted(key if isinstance(key, str) else str(key[0]) for key in found.get(fault) or ())
        if tensors:
            more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
            raise UserError(f"{name}: it {words} {tensors[0]}{more}; its files do not belong together")


def check_finite(name: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises UserError, naming the tensor, for a number that is NaN or infinite."""
    for key, tensor in tensors:
        if tensor.dtype in _FLOATS and not _finite(tensor.detach()):
            raise UserError(f"{name}: {key} holds numbers that are not finite; the file is damaged")


def _finite(tensor: Tensor) -> bool:
    """A sum is not finite if one of its terms is not; only where it overflows does each number have to be looked at."""
    return all(
        bool(part.sum(dtype=torch.float64 if part.dtype == torch.float64 else torch.float32).isfinite())
        or bool(part.isfinite().all())
        for part in tensor.reshape(-1).split(_PART)
    )


_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def weights_memory(name: str, causal: PreTrainedModel, dtype: torch.dtype, quantization: str, mapped: bool) -> int:
    """Bytes that the frozen weights take.

    A tensor that is taken from its file as it stands is a view of the file, which is mapped into memory as a whole.
    Others are copies: experts that were put together, weights of another precision, quantised ones.

    Args:
        causal: on the meta device.
        mapped: whether the model stays on a CPU; its files are looked at where they are on this machine.
    """
    quantised = {} if quantization == "none" else _linear_layers(causal)
    own = bytes_of(causal) - sum(_saved(module.weight, quantization) for module in quantised.values())
    folder = Path(locate(name))
    if not (mapped and folder.is_dir()):
        return own
    kept = {key: p for key, p in causal.named_parameters() if key.removesuffix(".weight") not in quantised}
    for file in folder.glob("*.safetensors"):
        views = [kept[key] for key in _names(file, dtype) if key in kept]
        if views:
            own += file.stat().st_size - sum(p.numel() * p.itemsize for p in views)
    return own


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(p.numel() * p.itemsize for p in model.parameters())


def _linear_layers(causal: PreTrainedModel) -> dict[str, nn.Linear]:
    """What is quantised: the linear layers but for the head."""
    head = causal.get_output_embeddings()
    return {name: m for name, m in causal.named_modules() if isinstance(m, nn.Linear) and m is not head}


def _saved(weight: Tensor, quantization: str) -> int:
    """Bytes that it has less when it is quantised."""
    return int(weight.numel() * (weight.itemsize - BITS[quantization] / 8))


def _names(file: Path, dtype: torch.dtype) -> list[str]:
    """The tensors of a file that have that precision."""
    with safe_open(file, framework="pt") as tensors:
        names: list[str] = tensors.keys()
        return [name for name in names if tensors.get_slice(name).get_dtype() == _DTYPES.get(dtype)]
