"""Adapters as files: whether one fits a model, before the model's weights are loaded."""

from pathlib import Path

from safetensors import safe_open

from phfcli.core.errors import UserError
from phfcli.core.models.description import ModelDescription, skeleton

_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # the dimension of the layer's [out, in] that it must agree with


def check_adapter(adapter: Path, description: ModelDescription) -> None:
    """Raises UserError, naming the first layer, if a LoRA adapter belongs to another model."""
    layers = {name: tuple(p.shape) for name, p in skeleton(description.config).named_parameters()}
    for name, shape in _shapes(adapter / "adapter_model.safetensors").items():
        for side, dimension in _SIDES.items():
            if not name.endswith(side):
                continue
            layer = name.removeprefix(_PREFIX).removesuffix(side)
            own = layers.get(f"{layer}.weight")
            if own is None or shape[dimension] != own[dimension]:
                found = f"there it is {' x '.join(map(str, own))}" if own else "which has no such layer"
                raise UserError(
                    f"{adapter}: does not fit {description.name}: {layer} is adapted with "
                    f"{' x '.join(map(str, shape))}, "
                    f"{found}; name the right base model with --base"
                )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
