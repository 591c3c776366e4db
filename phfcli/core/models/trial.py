"""Checks before training that logits and states, as this program computes them, equal those of the model's own code.

The losses never ask the model for logits: they compute them from the last hidden states, the head, and the scale and
cap that head_of finds. States are captured from the blocks that find_blocks finds. A short text is passed through both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phfcli.core.errors import UserError, first_line
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import capture_states

Args = tuple[Any, ...]
Kwargs = dict[str, Any]

TOKENS = 16
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative to the largest value
_COARSE = 5e-2  # in a lower precision


@torch.no_grad()
def check_computation(model: LanguageModel) -> None:
    """Passes a few tokens through a model in evaluation mode.

    Raises:
        UserError: where the model's head, blocks or attention compute something else than this program assumes.
    """
    ids = torch.arange(TOKENS, device=model.device)[None] % len(model.output_head)
    hidden, states = _pass(model, ids)
    with model.computing():
        output = model.causal(input_ids=ids, use_cache=False, output_hidden_states=True)
    if not _equal(model.output_head.logits(hidden), output.logits):
        raise UserError(
            f"{model.description.name}: its code does more between hidden states and logits than this program knows of "
            f"{type(model.causal).__name__}, so the losses would be of other logits; use another model"
        )
    _check_states(model, states, hidden, output.hidden_states or ())
    _check_attention(model, ids)


def _check_attention(model: LanguageModel, ids: Tensor) -> None:
    """Compares with the model's eager attention, where it has one: a kernel may leave out what it does not support.

    Each block is compared on the same input: over the depth of a real model, bfloat16 roundings grow to any size.
    """
    if model.attention == "eager":
        return
    set_before, shown = model.causal.config._attn_implementation, model.attention
    inputs, outputs = _through_blocks(model, ids)
    try:
        model.causal.set_attn_implementation("eager")
    except (ValueError, NotImplementedError):  # the model has no eager attention
        return
    try:
        _, expected = _through_blocks(model, ids, inputs)
    finally:
        model.causal.set_attn_implementation(set_before)
    tolerance = _tolerance(outputs[0].dtype, model.compute or outputs[0].dtype)
    if any(not _equal_by_token(output, eager, tolerance) for output, eager in zip(outputs, expected, strict=True)):
        raise UserError(
            f"{model.description.name}: attention by {shown} computes something else than the code of "
            f"{type(model.causal).__name__}; use attention=eager"
        )


def _through_blocks(
    model: LanguageModel, ids: Tensor, given: Sequence[Tensor] = ()
) -> tuple[list[Tensor], list[Tensor]]:
    """Input and output of each block, both [1, T, d]; with `given`, each block reads its entry of it instead."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def before(_block: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        state = args[0] if args else kwargs["hidden_states"]
        inputs.append(given[len(inputs)] if given else state.clone())
        return ((inputs[-1], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": inputs[-1]})

    def after(_block: nn.Module, _args: Args, output: Any) -> None:
        outputs.append((output if isinstance(output, Tensor) else output[0]).clone())

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in model.blocks]
    hooks += [block.register_forward_hook(after) for block in model.blocks]
    try:
        with model.computing():
            model.backbone(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, outputs


def _pass(model: LanguageModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states [1, T, d] and the states of all blocks [L, 1, T, d], captured as in training."""
    columns = torch.arange(TOKENS, device=model.device)[None]
    rows = torch.zeros_like(columns)
    try:
        with model.computing(), capture_states(list(model.blocks), (rows, columns)) as stack:
            hidden: Tensor = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
            return hidden, stack()
    except (AttributeError, IndexError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{model.description.name}: the blocks of {type(model.causal).__name__} do not each give a hidden "
            f"state for each token ({first_line(error)}); use another model"
        ) from None


def _check_states(model: LanguageModel, states: Tensor, hidden: Tensor, expected: Sequence[Tensor]) -> None:
    """Compares states [L, 1, T, d] with `expected`, which begins with the embeddings or, as Mamba's, with block 1."""
    kind, name = type(model.causal).__name__, model.description.name
    if len(expected) == len(states) + 1:
        wrong = min(_unequal(states[:-1], expected[1:-1]), _unequal(states, expected[:-1]), key=len)
        if wrong:
            raise UserError(
                f"{name}: the output of block {wrong[0]} of {kind} is not its hidden state; use another model"
            )
    with model.computing():
        normed = model.final_norm(states[-1])
    if not _equal(normed, hidden):
        raise UserError(f"{name}: the last block of {kind}, normed, is not what its head reads; use another model")


def _unequal(states: Tensor, expected: Sequence[Tensor]) -> list[int]:
    """The numbers of the blocks, 1 is the first, whose states differ."""
    pairs = zip(states, expected, strict=True)
    return [number for number, (state, other) in enumerate(pairs, start=1) if not _equal(state, other)]


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    difference = (one.float() - other.float()).abs().max()
    return bool(difference <= _tolerance(one.dtype, other.dtype) * other.float().abs().max())


def _equal_by_token(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Compares the norm of each token's state: one token's huge value does not hide differences at the others."""
    difference = (one.float() - other.float()).norm(dim=-1)
    return bool((difference <= tolerance * other.float().norm(dim=-1)).all())


def _tolerance(*dtypes: torch.dtype) -> float:
    return max(_TOLERANCE.get(dtype, _COARSE) for dtype in dtypes)
