"""The weighted divergence computed from hidden states, without holding the logits of all tokens.

Value and gradient equal those of `divergence` on the full logits. The gradient is computed in the forward pass, so that
only an [N, d] tensor lives until the backward pass (and a [V, d] one where the head trains).

Shapes: N tokens, d hidden size, V vocabulary.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phfcli.core.losses.divergence.chunked import ChunkedDivergence
from phfcli.core.losses.divergence.support import entry_count
from phfcli.core.losses.divergence.vocabulary_terms import DivergenceOptions, DivergenceSpec
from phfcli.core.losses.head import Head, as_head
from phfcli.core.losses.shared import working


class ClipStats(NamedTuple):
    """What the clip did, over the tokens of non-zero weight, and what each token is; tensors without a gradient.

    All but the last three are 0-dim.
    """

    entries_clipped: Tensor  # int64, (token, vocabulary entry) pairs above the clip; 0 in the mode "token"
    entries: Tensor  # int64, all such pairs: tokens x V (or x the entries of top_k)
    tokens_clipped: Tensor  # int64, tokens with a clipped entry; in the mode "token" those clipped themselves
    raw: Tensor  # sum_n w_n D_n without the clip
    clipped: Tensor  # sum_n w_n D_n with it, the value of the loss
    tokens_turned: Tensor  # int64, tokens whose gradient to the logits points away from the unclipped one
    divergence: Tensor  # [N] of each token without the clip; 0 where its weight is
    kept: Tensor  # [N] of each token with the clip; 0 where its weight is
    entropy: Tensor  # [N] of the student at the temperature, over the whole vocabulary, in nats; 0 where the weight is


def fused_divergence(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head: Tensor | Head,
    weights: Tensor,
    *,
    teacher_head: Tensor | Head | None = None,
    chunk_size: int | None = None,
    **options: Unpack[DivergenceOptions],
) -> Tensor:
    """sum_n w_n D_n as a 0-dim tensor; the gradient flows to `student_hidden`, and to `head` through the student only.

    Args:
        student_hidden, teacher_hidden: [N, d] inputs of the head (after the final norm). Logits are computed in their
            dtype, everything after in float32 (float64 for float64).
        head: its weight [V, d], or a Head with a bias, a scale, a soft cap; gradients to weight and bias are
            accumulated in float32 where they are required.
        weights: [N], constants. Tokens of weight 0 are skipped, whatever their hidden states hold.
        teacher_head: that of an external teacher with its own head (its d may differ); default `head`.
        chunk_size: tokens whose logits are held at once; by default as many as 75 MiB hold (64 at V = 151,936),
            on a GPU 512 MiB.
        options: kind, beta, temperature, clip, clip_mode, top_k, support, tail and teacher_temperature, as in
            `divergence`.

    Raises:
        ValueError: shapes that do not fit, or an option out of range.
    """
    return fused_divergence_stats(
        student_hidden, teacher_hidden, head, weights, teacher_head=teacher_head, chunk_size=chunk_size, **options
    )[0]


def fused_divergence_stats(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head: Tensor | Head,
    weights: Tensor,
    *,
    teacher_head: Tensor | Head | None = None,
    chunk_size: int | None = None,
    **options: Unpack[DivergenceOptions],
) -> tuple[Tensor, ClipStats]:
    """`fused_divergence` and what its clip did, from the same pass."""
    spec = DivergenceSpec(**options)
    own, other = as_head(head), None if teacher_head is None else as_head(teacher_head)
    _check(student_hidden, teacher_hidden, own, weights, other, chunk_size)
    if not torch.is_grad_enabled():
        student_hidden, own = student_hidden.detach(), own.detach()
    inputs = (student_hidden, own.weight, own.bias, teacher_hidden, weights)
    outputs: tuple[Tensor, ...] = _FusedDivergence.apply(  # type: ignore[no-untyped-call]
        *inputs, own, other, spec, chunk_size
    )
    loss, entries_clipped, entries, tokens_clipped, raw, turned, *each = outputs
    return loss, ClipStats(entries_clipped, entries, tokens_clipped, raw, loss.detach(), turned, *each)


class _FusedDivergence(torch.autograd.Function):
    """(loss, ClipStats but for `clipped`); the backward pass only scales what the forward pass has kept."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor,
        weights: Tensor,
        head: Head,
        teacher_head: Head | None,
        spec: DivergenceSpec,
        chunk_size: int | None,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(student_hidden.dtype, teacher_hidden.dtype)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        divergence = ChunkedDivergence(
            spec=spec,
            head=head.to(dtype),
            teacher_head=None if teacher_head is None else teacher_head.to(dtype),
            chunk_size=chunk_size,
            wants_hidden=wants_hidden,
            wants_weight=wants_weight,
            wants_bias=wants_bias,
        )
        index = weights.nonzero().squeeze(1)
        counted = slice(None) if len(index) == len(weights) else index  # all of them: nothing is copied
        student, teacher = student_hidden[counted].to(dtype), teacher_hidden[counted].to(dtype)
        weights = weights[counted].to(working(student).dtype)
        with torch.autocast(student.device.type, enabled=False):
            sums = divergence(student, teacher, weights)
        grad_hidden, grad_weight, grad_bias = None, None, None
        if sums.grad_hidden is not None:
            grad_hidden = _spread(sums.grad_hidden.to(student_hidden.dtype), counted, student_hidden)
        if sums.grad_weight is not None:
            grad_weight = sums.grad_weight.to(weight.dtype)
        if sums.grad_bias is not None and bias is not None:
            grad_bias = sums.grad_bias.to(bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        each = sums.tokens.new_zeros(3, len(student_hidden))
        each[:, counted] = sums.tokens[[0, 1, 4]]
        stats = (*_statistics(sums.tokens, weights, spec, len(head)), *each.unbind())
        ctx.mark_non_differentiable(*stats)
        return ((sums.tokens[1] * weights).sum(), *stats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
        return *grads, None, None, None, None, None, None


def _spread(grad: Tensor, counted: Tensor | slice, hidden: Tensor) -> Tensor:
    """The gradient of the counted tokens [n, d] -> that of all [N, d]: 0 where a token is not counted."""
    if isinstance(counted, slice):
        return grad
    return torch.zeros_like(hidden).index_copy_(0, counted, grad)


def _statistics(tokens: Tensor, weights: Tensor, spec: DivergenceSpec, vocabulary: int) -> tuple[Tensor, ...]:
    """Tokens [5, N] as `DivergenceSums` holds them, weights [N] -> the first of ClipStats but for `clipped`."""
    raw, _, clipped, turned, _ = tokens
    by_token = spec.clip is not None and spec.clip_mode == "token"
    entries = len(weights) * entry_count(vocabulary, spec)
    return (
        clipped.long().sum(),
        torch.tensor(entries, device=weights.device),
        (raw > spec.clip).sum() if by_token else (clipped > 0).sum(),
        (raw * weights).sum(),
        turned.long().sum(),
    )


def _check(
    student: Tensor, teacher: Tensor, head: Head, weights: Tensor, teacher_head: Head | None, chunk_size: int | None
) -> None:
    """Raises ValueError for shapes that do not fit, or a chunk of no tokens."""
    heads = {"student": (student, head.weight), "teacher": (teacher, (teacher_head or head).weight)}
    for name, (hidden, matrix) in heads.items():
        if hidden.ndim != 2 or matrix.ndim != 2 or hidden.shape[1] != matrix.shape[1] or len(matrix) != len(head):
            shapes = f"{tuple(hidden.shape)} and {tuple(matrix.shape)}"
            raise ValueError(f"the {name}'s hidden states must be [N, d] and its head [V, d], V shared; got {shapes}")
    if not len(student) == len(teacher) == weights.numel() or weights.ndim != 1:
        shapes = f"{len(student)}, {len(teacher)} and {tuple(weights.shape)}"
        raise ValueError(f"student, teacher and weights must have the same N tokens; got {shapes}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}")
