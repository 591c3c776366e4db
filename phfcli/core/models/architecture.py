"""Where the decoder blocks, the final norm and the head of a model are, and which blocks a setting means."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from phfcli.core.config import LayerChoice
from phfcli.core.errors import UserError
from phfcli.core.losses.head import Head
from phfcli.core.models.description import depth_of, text_config


def find_decoder(causal: PreTrainedModel) -> nn.Module:
    """Embeddings, blocks and final norm, without the head."""
    decoder: nn.Module = causal.get_decoder()
    if decoder is not causal:
        return decoder
    name, _ = find_blocks(causal)  # transformers knows no decoder of this model: take the module that holds the blocks
    return causal.get_submodule(name.rpartition(".")[0])


def find_blocks(causal: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks and its name in the model: the outermost list as long as the config's depth.

    Raises:
        UserError: for a model without such a list.
    """
    decoder, depth = causal.get_decoder(), depth_of(causal.config)
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and len(set(map(id, module))) == depth:
            return next(name for name, other in causal.named_modules() if other is module), module
    kind = causal.config.model_type
    raise UserError(f"model: {kind} has no list of {depth} decoder blocks of its own to capture states from")


def final_norm(decoder: nn.Module, blocks: nn.ModuleList, width: int) -> nn.Module | None:
    """The norm between the last block and the head: the last one of hidden states outside the blocks, or None."""
    inside = set(map(id, blocks.modules()))
    norms = [m for m in decoder.modules() if id(m) not in inside and "norm" in type(m).__name__.lower()]
    shapes = [(norm, getattr(norm, "weight", None)) for norm in norms]
    fitting = [norm for norm, weight in shapes if not isinstance(weight, Tensor) or len(weight) == width]
    return fitting[-1] if fitting else None


_SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite


def head_of(causal: PreTrainedModel) -> Head:
    """The model's head. `check_computation` refuses a model whose code does more than the names above say."""
    layer: Any = causal.get_output_embeddings()
    config = text_config(causal.config)
    scale = 1.0
    for name in _FACTORS:
        scale *= _number(config, name) or 1.0
    for name in _DIVISORS:
        scale /= _number(config, name) or 1.0
    cap = next((value for name in _SOFT_CAPS if (value := _number(config, name))), None)
    return Head(layer.weight, getattr(layer, "bias", None), scale, cap)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None else float(value)


def pick_layers(choice: LayerChoice | None, depth: int) -> tuple[int, ...]:
    """The numbers of the chosen blocks of a model of that depth, 1 is the lowest; None chooses all."""
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
    """The given blocks, and the block above each of them where there is one."""
    return tuple(sorted({block for layer in layers for block in (layer, layer + 1) if block <= depth}))


def _block(layer: int | str, depth: int) -> int:
    """The block's number; for a share of the depth such as "25%" the nearest block, halves up, and at least 1."""
    return layer if isinstance(layer, int) else max(1, int(float(layer.removesuffix("%")) * depth / 100 + 0.5))


def check_layers(setting: str, choice: LayerChoice | None, depth: int) -> None:
    """Raises UserError, naming the setting, for blocks that a model of that depth does not have."""
    layers = pick_layers(choice, depth)
    if not layers:
        raise UserError(f"{setting}: {choice!r} is none of the model's {depth} decoder blocks")
    if max(layers) > depth:
        raise UserError(f"{setting}: {max(layers)} is beyond the model's {depth} decoder blocks")


def pair_layers(layers: Sequence[int], depth: int, other: int) -> tuple[int, ...]:
    """For each of `layers` of a model of `depth` blocks, the block at the same relative depth of one of `other` blocks.

    Rounded to the nearest block, halves up, and at least the first: the last is paired with the last.
    """
    return tuple(max(1, (2 * layer * other + depth) // (2 * depth)) for layer in layers)
