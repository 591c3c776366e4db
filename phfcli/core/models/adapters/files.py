"""Adapters as files: whether one fits a model and is whole, before the model's weights are loaded."""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from phfcli.core.errors import UserError
from phfcli.core.models.description import ModelDescription, skeleton
from phfcli.core.models.weights import check_finite
from phfcli.core.storage.tensors import open_tensors, read_tensors

_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # the dimension of the layer's [out, in] that it must agree with
_WITHIN = ".base_layer"  # an adapter around another one, as PEFT has them on fused experts


def check_adapter(adapter: Path, description: ModelDescription) -> None:
    """Raises UserError, naming the first layer, if a LoRA adapter is another model's, or holds a NaN or an infinity."""
    path, model = adapter / "adapter_model.safetensors", skeleton(description.config)
    for name, shape in _shapes(path).items():
        side = next((side for side in _SIDES if name.endswith(side)), None)
        if side is None:
            continue
        layer = name.removeprefix(_PREFIX).removesuffix(side)
        own = _layer_shape(model, layer.removesuffix(_WITHIN))
        if own is None or (own and shape[_SIDES[side]] != own[_SIDES[side]]):
            found = f"there it is {' x '.join(map(str, own))}" if own else "which has no such layer"
            raise UserError(
                f"{adapter}: does not fit {description.name}: {layer} is adapted with "
                f"{' x '.join(map(str, shape))}, "
                f"{found}; name the right base model with --base"
            )
    check_finite(str(path), read_tensors(path).items())


def _layer_shape(model: PreTrainedModel, name: str) -> tuple[int, ...] | None:
    """Its [out, in]; nothing to compare, (), where it holds several matrices; None where there is none."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    weight = getattr(module, "weight", None)
    if weight is None:
        return () if any(p.dim() == 3 for p in module.parameters(recurse=False)) else None
    return tuple(reversed(weight.shape)) if isinstance(module, Conv1D) else tuple(weight.shape)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with open_tensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
