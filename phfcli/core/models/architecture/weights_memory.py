"""Predicts the memory of a loaded base: on a CPU its files are mapped, and what is converted stands beside them."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from phfcli.core.models.description import locate
from phfcli.core.models.quantization import BITS

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
