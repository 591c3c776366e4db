"""The divergence from hidden states and the head, in chunks, so that no (all tokens, vocabulary) tensor exists.

The value is that of `divergence` (eq. 3 of PHF). The gradient to the student's logits z has a closed form, with g_v of
`VocabularyTerms.slope`, zero where entry v is clipped:

    dD / dz_v = (g_v - S_v sum_u g_u) / temperature

so the forward pass computes it chunk by chunk, and the backward pass only scales it. A chunk is what one matrix product
takes; a slab is a part of a chunk whose temporaries fit into the cache.

Shapes: N tokens, n tokens of a chunk, d hidden size, V vocabulary, K readings of the teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phfcli.core.losses.divergence import (
    Contrast,
    DivergenceOptions,
    DivergenceSpec,
    contrast_logits,
    entry_count,
    logits_entropy,
    merge_stops,
    restrict,
    spread_gradient,
    spread_to_stops,
    vocabulary_terms,
)
from phfcli.core.losses.head import Head, as_head
from phfcli.core.losses.positions import working

CHUNK_BYTES = 75 * 2**20  # of a chunk's logits, student and teacher: 64 tokens in float32 at a vocabulary of 151,936
_CHUNK_BYTES_GPU = 512 * 2**20  # 880 tokens in bfloat16: enough that arithmetic, not reading the head, takes the time
_SLAB_BYTES_CPU = 2**20  # of one temporary of a slab: fits into the cache of a core
_SLAB_BYTES = 32 * 2**20  # on other devices: enough work to hide the launch of a kernel
SLAB_TEMPORARIES = 10


class DivergenceSums(NamedTuple):
    """The results of all chunks. The gradients are those of sum_n w_n D_n, or None where none is required."""

    # [6, N] of each token: D before the clip, D after it, clipped entries, those of them turned, 1 if turned, entropy
    tokens: Tensor
    grad_hidden: Tensor | None  # [N, d] in the dtype of the student's hidden states
    grad_weight: Tensor | None  # [V, d] of the head, in float32 (or float64)
    grad_bias: Tensor | None  # [V]


@dataclass(frozen=True)
class ChunkedDivergence:
    """The computation of a divergence, with the options that all chunks share."""

    spec: DivergenceSpec
    head: Head  # of [V, d]
    teacher_head: Head | None  # of [V, d'], or None where the teacher shares `head`
    contrast: Contrast | None  # by which the teacher's readings become its distribution; None is one reading
    chunk_size: int | None
    wants_hidden: bool
    wants_weight: bool
    wants_bias: bool

    def __call__(self, student: Tensor, teacher: Tensor, weights: Tensor) -> DivergenceSums:
        """The divergence and its gradients, for weights [N] in the working precision.

        Args:
            student: hidden states [N, d].
            teacher: hidden states [N, d], or [N, K, d] with a contrast.
        """
        count, vocabulary = len(student), len(self.head)
        teacher_NKd = teacher if teacher.ndim == 3 else teacher[:, None]
        readers = 1 + teacher_NKd.shape[1]
        chunk = chunk_rows(student, vocabulary, self.chunk_size, readers)
        logits_rnV = student.new_empty(readers * chunk, vocabulary)
        tokens = weights.new_empty(6, count)
        grad_hidden = torch.empty_like(student) if self.wants_hidden else None
        grad_weight = torch.zeros_like(self.head.weight, dtype=weights.dtype) if self.wants_weight else None
        grad_bias = weights.new_zeros(vocabulary) if self.wants_bias else None
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            grad_nV, tokens[:, rows] = self._chunk(student[rows], teacher_NKd[rows], logits_rnV)
            scale_n1 = (weights[rows] * self._unclipped(tokens[:, rows]) / self.spec.temperature)[:, None]
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_nV @ self.head.weight) * scale_n1
            if grad_weight is not None:
                grad_weight.addmm_(working(grad_nV).T, working(student[rows]) * scale_n1)
            if grad_bias is not None:
                grad_bias.addmv_(working(grad_nV).T, scale_n1[:, 0])
        return DivergenceSums(tokens, grad_hidden, grad_weight, grad_bias)

    def _chunk(self, student: Tensor, teacher_nKd: Tensor, logits_rnV: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states -> the gradient to the student's products [n, V] (in `logits_rnV`), tokens [6, n]."""
        readings = teacher_nKd.unbind(1)
        student_nV, *teacher_nV = logits_rnV[: (1 + len(readings)) * len(student)].split(max(1, len(student)))
        if self.teacher_head is None:  # one product for all reads the head only once
            out = logits_rnV[: (1 + len(readings)) * len(student)]
            torch.mm(torch.cat((student, *readings)), self.head.weight.T, out=out)
        else:
            torch.mm(student, self.head.weight.T, out=student_nV)
            for hidden, products in zip(readings, teacher_nV, strict=True):
                torch.mm(hidden, self.teacher_head.weight.T, out=products)
        tokens = [self._slab(student_nV[s], [products[s] for products in teacher_nV]) for s in slabs(student_nV)]
        return student_nV, torch.cat(tokens, dim=1)

    def _slab(self, student_nV: Tensor, teacher_nV: Sequence[Tensor]) -> Tensor:
        """Products -> tokens [6, n]. Writes the gradient to the student's products into `student_nV`, if required."""
        student = self.head.finish(student_nV)
        teacher, *others = ((self.teacher_head or self.head).finish(products) for products in teacher_nV)
        if self.contrast is not None:
            teacher = contrast_logits((teacher, *others), self.contrast, self.spec.resolved_teacher_temperature)
        teacher = merge_stops(teacher, self.spec.stops, self.spec.resolved_teacher_temperature)
        merged = merge_stops(student, self.spec.stops, self.spec.temperature)
        restricted = restrict(merged, teacher, self.spec)
        grad, tokens = _token_terms(restricted.student, restricted.teacher, self.spec)
        if restricted.entries is not None:
            tokens[-1] = logits_entropy(merged, self.spec.temperature)  # of the distribution over the whole vocabulary
        if self.wants_hidden or self.wants_weight or self.wants_bias:
            grad = spread_to_stops(spread_gradient(grad, merged, restricted, self.spec), student, self.spec)
            student_nV.copy_(self.head.to_products(grad, student))
        return tokens

    def _unclipped(self, tokens: Tensor) -> Tensor:
        """[6, n] -> [n]: 0 for a token whose sum is clipped (`clip_mode` "token"), else 1."""
        clip = self.spec.clip if self.spec.clip_mode == "token" else None
        return torch.ones_like(tokens[0]) if clip is None else (tokens[0] <= clip).to(tokens.dtype)


def _token_terms(student_logits: Tensor, teacher_logits: Tensor, spec: DivergenceSpec) -> tuple[Tensor, Tensor]:
    """Logits [n, V] -> (gradient to the student's logits [n, V], tokens [6, n]).

    The gradient is without the token clip and without the factor 1 / temperature.
    """
    value, slope, S, entropy = vocabulary_terms(student_logits, teacher_logits, spec)
    raw = value.sum(-1)
    kept, clipped, reversed_, turned = raw, *(torch.zeros_like(raw) for _ in range(3))
    grad = _to_logits(slope, S)
    if spec.clip is not None and spec.clip_mode == "token":
        kept = raw.clamp(max=spec.clip)
    elif spec.clip is not None and (value.device.type != "cpu" or bool(value.amax() > spec.clip)):
        held = value.clamp(max=spec.clip)
        above = (value - held).sign()  # 1 where clipped, else 0: on a CPU far cheaper than a boolean mask
        unclipped_grad, grad = grad, _to_logits(torch.addcmul(slope, slope, above, value=-1), S)
        agreement = unclipped_grad * grad
        kept, clipped, turned = held.sum(-1), above.sum(-1), (agreement.sum(-1) < 0).to(raw.dtype)
        reversed_ = torch.linalg.vecdot((agreement < 0).to(above.dtype), above)
    return grad, torch.stack((raw, kept, clipped, reversed_, turned, entropy))


def _to_logits(slope: Tensor, S: Tensor) -> Tensor:
    """Slopes g_v [n, V] -> g_v - S_v sum_u g_u, the gradient to the student's logits times the temperature."""
    return torch.addcmul(slope, S, slope.sum(-1, keepdim=True), value=-1)


def chunk_rows(hidden: Tensor, vocabulary: int, chunk_size: int | None, readers: int = 2) -> int:
    """The number of tokens of a chunk of [N, d] hidden states: `chunk_size`, or as many as the memory budget holds."""
    row = readers * vocabulary * hidden.itemsize
    return min(chunk_size or fitting(chunk_bytes(hidden.device), row), max(1, len(hidden)))


def slabs(logits_nV: Tensor) -> list[slice]:
    """The rows of each slab of a chunk."""
    rows = fitting(slab_bytes(logits_nV.device), logits_nV.shape[1] * 4)
    return [slice(start, start + rows) for start in range(0, len(logits_nV), rows)]


def chunk_bytes(device: torch.device) -> int:
    """The bytes of a chunk's logits, student and teacher together, on that device."""
    return CHUNK_BYTES if device.type == "cpu" else _CHUNK_BYTES_GPU


def slab_bytes(device: torch.device) -> int:
    """The bytes of one temporary of a slab on that device; a slab has up to SLAB_TEMPORARIES of them."""
    return _SLAB_BYTES_CPU if device.type == "cpu" else _SLAB_BYTES


def fitting(budget: int, row: int) -> int:
    """The number of rows of `row` bytes that fit into `budget` bytes, at least one."""
    return max(1, budget // max(1, row))


class ClipStats(NamedTuple):
    """Statistics of the clip over the tokens of non-zero weight, and three values of each token; without gradients.

    All but the last three are 0-dim.
    """

    entries_clipped: Tensor  # int64, (token, vocabulary entry) pairs above the clip; 0 in the mode "token"
    entries_turned: Tensor  # int64, those of them whose gradient has the sign opposite to the unclipped one
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
    contrast: Contrast | None = None,
    chunk_size: int | None = None,
    **options: Unpack[DivergenceOptions],
) -> Tensor:
    """sum_n w_n D_n (eq. 3, weighted), 0-dim, in nats.

    The gradient flows to `student_hidden`, and to `head` through the student's logits only.

    Args:
        student_hidden, teacher_hidden: [N, d] inputs of the head (after the final norm). Logits are computed in their
            dtype, everything after in float32 (float64 for float64).
        head: its weight [V, d], or a Head with a bias, a scale, a soft cap; gradients to weight and bias are
            accumulated in float32 where they are required.
        weights: [N], constants. Tokens of weight 0 are skipped, whatever their hidden states hold.
        teacher_head: the head of an external teacher (its d may differ); None means `head`.
        contrast: makes the target of several readings of the teacher, whose hidden states are [N, K, d] then.
        chunk_size: tokens whose logits are held at once; by default as many as 75 MiB hold (64 at V = 151,936),
            on a GPU 512 MiB.
        options: kind, beta, temperature, clip, clip_mode, top_k, support, tail, teacher_temperature and stops, as
            in `divergence`.

    Raises:
        ValueError: shapes that do not fit, or an option out of range.
    """
    return fused_divergence_stats(
        student_hidden,
        teacher_hidden,
        head,
        weights,
        teacher_head=teacher_head,
        contrast=contrast,
        chunk_size=chunk_size,
        **options,
    )[0]


def fused_divergence_stats(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    head: Tensor | Head,
    weights: Tensor,
    *,
    teacher_head: Tensor | Head | None = None,
    contrast: Contrast | None = None,
    chunk_size: int | None = None,
    **options: Unpack[DivergenceOptions],
) -> tuple[Tensor, ClipStats]:
    """`fused_divergence` (0-dim, nats) and the statistics of its clip, from the same pass.

    Raises:
        ValueError: shapes that do not fit, or an option out of range.
    """
    spec = DivergenceSpec(**options)
    student_head, other_head = as_head(head), None if teacher_head is None else as_head(teacher_head)
    _check(student_hidden, teacher_hidden, student_head, weights, other_head, contrast, chunk_size)
    if not torch.is_grad_enabled():
        student_hidden, student_head = student_hidden.detach(), student_head.detach()
    inputs = (student_hidden, student_head.weight, student_head.bias, teacher_hidden, weights)
    outputs: tuple[Tensor, ...] = _FusedDivergence.apply(  # type: ignore[no-untyped-call]
        *inputs, student_head, other_head, spec, contrast, chunk_size
    )
    loss, clipped, reversed_, entries, tokens_clipped, raw, turned, *per_token = outputs
    return loss, ClipStats(clipped, reversed_, entries, tokens_clipped, raw, loss.detach(), turned, *per_token)


class _FusedDivergence(torch.autograd.Function):
    """Returns (loss, ClipStats without `clipped`). The backward pass only scales the gradients of the forward pass."""

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
        contrast: Contrast | None,
        chunk_size: int | None,
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(student_hidden.dtype, teacher_hidden.dtype)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        divergence = ChunkedDivergence(
            spec=spec,
            head=head.to(dtype),
            teacher_head=None if teacher_head is None else teacher_head.to(dtype),
            contrast=contrast,
            chunk_size=chunk_size,
            wants_hidden=wants_hidden,
            wants_weight=wants_weight,
            wants_bias=wants_bias,
        )
        index = weights.nonzero().squeeze(1)
        counted = slice(None) if len(index) == len(weights) else index  # a slice of all tokens copies nothing
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
        per_token = sums.tokens.new_zeros(3, len(student_hidden))
        per_token[:, counted] = torch.stack([sums.tokens[0], sums.tokens[1], sums.tokens[-1]])
        stats = (*_statistics(sums.tokens, weights, spec, len(head)), *per_token.unbind())
        ctx.mark_non_differentiable(*stats)
        return ((sums.tokens[1] * weights).sum(), *stats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_loss for grad in ctx.saved_tensors)
        return *grads, None, None, None, None, None, None, None


def _spread(grad: Tensor, counted: Tensor | slice, hidden: Tensor) -> Tensor:
    """The gradient to the counted tokens [n, d] -> the gradient to all tokens [N, d], 0 where one is not counted."""
    if isinstance(counted, slice):
        return grad
    return torch.zeros_like(hidden).index_copy_(0, counted, grad)


def _statistics(tokens: Tensor, weights: Tensor, spec: DivergenceSpec, vocabulary: int) -> tuple[Tensor, ...]:
    """`DivergenceSums.tokens` [6, N] and weights [N] -> the 0-dim fields of ClipStats without `clipped`."""
    raw, _, clipped, reversed_, turned, _ = tokens
    by_token = spec.clip is not None and spec.clip_mode == "token"
    entries = len(weights) * entry_count(vocabulary, spec)
    return (
        clipped.long().sum(),
        reversed_.long().sum(),
        torch.full((), entries, device=weights.device),
        (raw > spec.clip).sum() if by_token else (clipped > 0).sum(),
        (raw * weights).sum(),
        turned.long().sum(),
    )


def _check(
    student: Tensor,
    teacher: Tensor,
    head: Head,
    weights: Tensor,
    teacher_head: Head | None,
    contrast: Contrast | None,
    chunk_size: int | None,
) -> None:
    """Raises ValueError for shapes that do not fit, or a chunk of no tokens."""
    heads = {"student": (student, head.weight, None), "teacher": (teacher, (teacher_head or head).weight, contrast)}
    for name, (hidden, matrix, several) in heads.items():
        want = 2 if several is None else 3
        fits = hidden.ndim == want and (several is None or hidden.shape[1] == several.readings)
        if not fits or matrix.ndim != 2 or hidden.shape[-1] != matrix.shape[1] or len(matrix) != len(head):
            shapes = f"{tuple(hidden.shape)} and {tuple(matrix.shape)}"
            rows = "[N, d]" if several is None else f"[N, {several.readings}, d]"
            raise ValueError(f"the {name}'s hidden states must be {rows} and its head [V, d], V shared; got {shapes}")
    if not len(student) == len(teacher) == weights.numel() or weights.ndim != 1:
        shapes = f"{len(student)}, {len(teacher)} and {tuple(weights.shape)}"
        raise ValueError(f"student, teacher and weights must have the same N tokens; got {shapes}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}")
