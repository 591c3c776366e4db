"""Which decoder blocks a hidden loss looks at, and which block of a model of another depth stands beside each."""

from collections.abc import Sequence

from phfcli.core.config import LayerChoice
from phfcli.core.errors import UserError


def pick_layers(choice: LayerChoice | None, depth: int) -> tuple[int, ...]:
    """The blocks of a model of that depth from below, 1 is the first; None is all of them."""
    if choice == "last":
        return (depth,)
    if choice == "even":
        return tuple(range(2, depth + 1, 2))
    if choice == "odd":
        return tuple(range(1, depth + 1, 2))
    if choice is None or choice == "all":
        return tuple(range(1, depth + 1))
    return tuple(sorted({_block(layer, depth) for layer in choice}))


def with_next(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The blocks and the next one of each, where the model has it."""
    return tuple(sorted({block for layer in layers for block in (layer, layer + 1) if block <= depth}))


def _block(layer: int | str, depth: int) -> int:
    """The block itself, or the nearest one to a share of the depth such as "25%", halves up and at least the first."""
    return layer if isinstance(layer, int) else max(1, int(float(layer.removesuffix("%")) * depth / 100 + 0.5))


def check_layers(setting: str, choice: LayerChoice | None, depth: int) -> None:
    """Raises UserError, naming the setting, for blocks that a model of that depth does not have."""
    layers = pick_layers(choice, depth)
    if not layers:
        raise UserError(f"{setting}: {choice!r} is none of the model's {depth} decoder blocks")
    if max(layers) > depth:
        raise UserError(f"{setting}: {max(layers)} is beyond the model's {depth} decoder blocks")


def pair_layers(layers: Sequence[int], depth: int, other: int) -> tuple[int, ...]:
    """The block of a model of depth `other` that lies as deep, in proportion, as each of `layers` does in `depth`.

    Rounded to the nearest block, halves up, and at least the first: the last is paired with the last.
    """
    return tuple(max(1, (2 * layer * other + depth) // (2 * depth)) for layer in layers)
