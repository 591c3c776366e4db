"""Measures the memory of a step's passes by running them on tensors that have shapes and no data.

The model itself runs on torch's meta device, so that everything its architecture and adapters keep for the backward
pass is counted. Attention is assumed to keep its inputs, its output and one number for each query (FlashAttention, or
the fused attention of a CPU).
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

from phfcli.core.models.architecture import find_decoder
from phfcli.core.models.description import text_config
from phfcli.core.models.device import is_offloaded

_BACKWARD = 2.5  # products of a fused attention's backward pass for each of its forward pass
_STAND_IN = "phf-shapes"  # the name in transformers' tables of the stand-ins for attention and experts


@dataclass(frozen=True)
class PassMemory:
    """Bytes of the passes beyond the weights.

    Attributes:
        teacher: the peak of the teacher's pass, which has no gradients.
        kept: what autograd keeps after the student's forward pass.
        backward: the peak up to the end of the student's backward pass, gradients included.
        flops: of both passes, and of the student's backward pass.
    """

    teacher: int
    kept: int
    backward: int
    flops: int


def pass_memory(
    causal: PreTrainedModel, rows: int, student: int, teacher: int, attention: str, offload: bool = False
) -> PassMemory:
    """The memory of both passes over `rows` sequences of the given lengths.

    Args:
        causal: on the meta device, in the dtypes of the run, its trainable parameters marked; in training mode.
        student, teacher: tokens of a sequence; teacher 0 for no teacher's pass.
        attention: the setting; only "eager" runs as it is.
        offload: activations are offloaded until the backward pass.
    """
    reading = _read(causal, rows, teacher, attention) if teacher else Allocations()
    _set_attention(causal, attention)
    with Allocations() as passes:
        with saved_tensors_hooks(_describe, _renew) if offload else nullcontext():
            hidden = _hidden(causal, rows, student)
        kept = passes.held
        hidden.backward(torch.empty_like(hidden))
    for p in causal.parameters():
        p.grad = None
    # the stand-in for attention computes nothing: its products, forward and, with those that it repeats, backward
    square = 4 * rows * text_config(causal.config).num_hidden_layers * _attention_width(causal)
    attended = square * (teacher**2 + (1 + _BACKWARD + _is_checkpointed(causal)) * student**2) / 2  # causal
    return PassMemory(reading.peak, kept, passes.peak, int(reading.flops + passes.flops + attended))


def _attention_width(causal: PreTrainedModel) -> int:
    text = text_config(causal.config)
    heads = getattr(text, "num_attention_heads", None) or 0
    return int(heads * (getattr(text, "head_dim", None) or text.hidden_size // max(1, heads)))


def _is_checkpointed(causal: PreTrainedModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in causal.modules())


def reader_memory(causal: PreTrainedModel, rows: int, length: int, attention: str) -> int:
    """The peak in bytes of one pass without gradients, beyond the weights."""
    return _read(causal, rows, length, attention).peak


def _read(causal: PreTrainedModel, rows: int, length: int, attention: str) -> "Allocations":
    _set_attention(causal, attention)
    allocations = Allocations()
    with allocations, torch.no_grad():
        _hidden(causal, rows, length)
    return allocations


class Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it and still exist, `held` now, `peak` at most.

    `flops` are those of products, as torch counts them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: int = 0
        self.peak: int = 0
        self.flops: int = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:  # type: ignore[attr-defined]
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _key(x) not in inputs and _key(x) not in self._sizes:
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key: int = storage._cdata
        self._sizes[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.held -= self._sizes.pop(key)


def _describe(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...], torch.dtype]:
    """Replaces an activation that is offloaded by its shape, strides and dtype."""
    return (saved.shape, saved.stride(), saved.dtype) if is_offloaded(saved) else saved


def _renew(kept: Tensor | tuple[torch.Size, tuple[int, ...], torch.dtype]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    size, stride, dtype = kept
    return torch.empty_strided(size, stride, dtype=dtype, device="meta")


def _key(x: Tensor) -> int:
    key: int = x.untyped_storage()._cdata
    return key


def _set_attention(causal: PreTrainedModel, attention: str) -> None:
    AttentionInterface.register(_STAND_IN, _attend)
    causal.set_attn_implementation("eager" if attention == "eager" else _STAND_IN)
    ExpertsInterface.register(_STAND_IN, _route)
    causal.config._experts_implementation = _STAND_IN
    text_config(causal.config)._experts_implementation = _STAND_IN
    rotary: Any  # transformers declares no type for it
    for rotary in causal.modules():  # angles that follow the longest sequence are chosen by values, which are not there
        if (kind := getattr(rotary, "rope_type", None)) is not None:
            rotary.rope_type = dict.fromkeys(kind, "default") if isinstance(kind, dict) else "default"


def _hidden(causal: PreTrainedModel, rows: int, length: int) -> Tensor:
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    # a mask that takes no memory: rows are packed in training, which needs no mask
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device="meta").expand(rows, 1, length, length)
    decoder = find_decoder(causal)
    position_ids: dict[str, Tensor] = {}
    if hasattr(decoder, "embed_positions"):  # learned positions, which would be computed from a two-dimensional mask
        position_ids["position_ids"] = torch.zeros(rows, length, dtype=torch.long, device="meta")
    hidden: Tensor = decoder(input_ids=ids, attention_mask=mask, use_cache=False, **position_ids).last_hidden_state
    return hidden


def _attend(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_args: Any, **_options: Any
) -> tuple[Tensor, None]:
    """[B, heads, T, head size] -> [B, T, heads, head size]."""
    out: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _route(experts: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Fused experts on tokens [T, d], with k chosen experts of each token and their weights [T, k]: [T, d]."""
    selected = hidden.repeat_interleave(chosen.shape[-1], dim=0)
    up = experts.gate_up_proj if experts.has_gate else experts.up_proj
    product: Tensor = _Grouped.apply(selected, up, experts.is_transposed)  # type: ignore[no-untyped-call]
    inner = experts._apply_gate(product) if experts.has_gate else experts.act_fn(product)
    out: Tensor = _Grouped.apply(inner, experts.down_proj, experts.is_transposed)  # type: ignore[no-untyped-call]
    return (out * weights.reshape(-1, 1)).view(*chosen.shape, -1).sum(1).to(hidden.dtype)


class _Grouped(torch.autograd.Function):
    """Allocates what a grouped product (each token with its expert's matrix) keeps and returns, without computing."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, matrices: Tensor, transposed: bool) -> Tensor:
        ctx.save_for_backward(tokens, matrices)
        return tokens.new_empty(len(tokens), matrices.shape[-1 if transposed else -2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, matrices = ctx.saved_tensors
        return torch.empty_like(tokens), torch.empty_like(matrices) if ctx.needs_input_grad[1] else None, None


class _Attention(torch.autograd.Function):
    """Allocates what fused attention keeps and returns, without computing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, length, _ = query.shape
        out = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
