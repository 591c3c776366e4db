"""The weights of a model: all of them, in their shapes, every number finite, from safetensors alone.

transformers itself gives fresh random weights to whatever a folder lacks, drops what is too much, and reads pickles.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from phfcli.core.errors import UserError
from phfcli.core.models.description import auto_class, from_hub, locate

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
