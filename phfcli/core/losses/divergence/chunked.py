"""Computes logits, divergence and gradient in one pass over the tokens, a chunk at a time.

Two sizes matter. The head is read once for each CHUNK of tokens, so a chunk is as large as the memory it may take. The
elementwise work goes over SLABS of a few rows of a chunk, whose temporaries stay in a CPU's cache: there it is several
times as fast as over whole chunks. The student's half of a chunk's logits is overwritten by their gradient.

Shapes: N tokens, n tokens of a chunk or a slab, d hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from phfcli.core.losses.divergence.support import restrict, spread_gradient
from phfcli.core.losses.divergence.vocabulary_terms import DivergenceSpec, logits_entropy, vocabulary_terms
from phfcli.core.losses.head import Head
from phfcli.core.losses.shared import working

CHUNK_BYTES = 75 * 2**20  # both logits of a chunk: 64 tokens in float32 at a vocabulary of 151,936
_CHUNK_BYTES_GPU = 512 * 2**20  # 880 in bfloat16: so many that products wait for arithmetic, not for the head
_SLAB_BYTES_CPU = 2**20  # one temporary of a slab: what a core's cache holds
_SLAB_BYTES = 32 * 2**20  # elsewhere: enough work to hide a kernel's launch
SLAB_TEMPORARIES = 10


class DivergenceSums(NamedTuple):
    """The result of all chunks. The gradients are those of sum_n w_n D_n, or None where they are not wanted."""

    tokens: Tensor  # [5, N] of each token: divergence, the same after the clip, clipped entries, 1 if turned, entropy
    grad_hidden: Tensor | None  # [N, d] in the dtype of the student's hidden states
    grad_weight: Tensor | None  # [V, d] of the head, in float32 (or float64)
    grad_bias: Tensor | None  # [V]


@dataclass(frozen=True)
class ChunkedDivergence:
    """The computation of a divergence, with all that stays the same from chunk to chunk."""

    spec: DivergenceSpec
    head: Head  # of [V, d]
    teacher_head: Head | None  # of [V, d'], or None where the teacher shares `head`
    chunk_size: int | None
    wants_hidden: bool
    wants_weight: bool
    wants_bias: bool

    def __call__(self, student: Tensor, teacher: Tensor, weights: Tensor) -> DivergenceSums:
        """The divergence of hidden states [N, d] with weights [N] in the working precision."""
        count, vocabulary = len(student), len(self.head)
        chunk = chunk_rows(student, vocabulary, self.chunk_size)
        logits_2nV = student.new_empty(2 * chunk, vocabulary)
        tokens = weights.new_empty(5, count)
        grad_hidden = torch.empty_like(student) if self.wants_hidden else None
        grad_weight = torch.zeros_like(self.head.weight, dtype=weights.dtype) if self.wants_weight else None
        grad_bias = weights.new_zeros(vocabulary) if self.wants_bias else None
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            grad_nV, tokens[:, rows] = self._chunk(student[rows], teacher[rows], logits_2nV)
            scale_n1 = (weights[rows] * self._passes(tokens[:, rows]) / self.spec.temperature)[:, None]
            if grad_hidden is not None:
                grad_hidden[rows] = (grad_nV @ self.head.weight) * scale_n1
            if grad_weight is not None:
                grad_weight.addmm_(working(grad_nV).T, working(student[rows]) * scale_n1)
            if grad_bias is not None:
                grad_bias.addmv_(working(grad_nV).T, scale_n1[:, 0])
        return DivergenceSums(tokens, grad_hidden, grad_weight, grad_bias)

    def _chunk(self, student: Tensor, teacher: Tensor, logits_2nV: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [n, d] -> the gradient to the student's products [n, V] (in `logits_2nV`), tokens [5, n]."""
        count = len(student)
        logits_2nV = logits_2nV[: 2 * count]
        student_nV, teacher_nV = logits_2nV[:count], logits_2nV[count:]
        if self.teacher_head is None:  # one product reads the head once
            torch.mm(torch.cat((student, teacher)), self.head.weight.T, out=logits_2nV)
        else:
            torch.mm(student, self.head.weight.T, out=student_nV)
            torch.mm(teacher, self.teacher_head.weight.T, out=teacher_nV)
        return student_nV, torch.cat([self._slab(student_nV[s], teacher_nV[s]) for s in slabs(student_nV)], dim=1)

    def _slab(self, student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
        """Products -> tokens [5, n]; `student_nV` becomes the gradient to itself, where one is wanted."""
        student, teacher = self.head.finish(student_nV), (self.teacher_head or self.head).finish(teacher_nV)
        restricted = restrict(student, teacher, self.spec)
        grad, tokens = _token_terms(restricted.student, restricted.teacher, self.spec)
        if restricted.entries is not None:
            tokens[4] = logits_entropy(student, self.spec.temperature)  # that of the whole vocabulary
        if self.wants_hidden or self.wants_weight or self.wants_bias:
            grad = spread_gradient(grad, student, restricted, self.spec)
            student_nV.copy_(self.head.to_products(grad, student))
        return tokens

    def _passes(self, tokens: Tensor) -> Tensor:
        """[5, n] -> [n]: 0 for a token that is clipped as a whole, else 1."""
        clip = self.spec.clip if self.spec.clip_mode == "token" else None
        return torch.ones_like(tokens[0]) if clip is None else (tokens[0] <= clip).to(tokens.dtype)


def _token_terms(student_logits: Tensor, teacher_logits: Tensor, spec: DivergenceSpec) -> tuple[Tensor, Tensor]:
    """Logits [n, V] -> (gradient to the student's [n, V], before the token clip and 1 / temperature; tokens [5, n])."""
    value, slope, S, entropy = vocabulary_terms(student_logits, teacher_logits, spec)
    raw = value.sum(-1)
    kept, clipped, turned = raw, torch.zeros_like(raw), torch.zeros_like(raw)
    grad = _to_logits(slope, S)
    if spec.clip is not None and spec.clip_mode == "token":
        kept = raw.clamp(max=spec.clip)
    elif spec.clip is not None and bool(value.amax() > spec.clip):
        held = value.clamp(max=spec.clip)
        above = (value - held).sign()  # 1 where clipped, else 0: on a CPU far cheaper than a boolean mask
        whole, grad = grad, _to_logits(torch.addcmul(slope, slope, above, value=-1), S)
        kept, clipped, turned = held.sum(-1), above.sum(-1), ((whole * grad).sum(-1) < 0).to(raw.dtype)
    return grad, torch.stack((raw, kept, clipped, turned, entropy))


def _to_logits(slope: Tensor, S: Tensor) -> Tensor:
    """The slopes of all entries [n, V] -> the gradient of their sum to the student's logits, times the temperature."""
    return torch.addcmul(slope, S, slope.sum(-1, keepdim=True), value=-1)


def chunk_rows(hidden: Tensor, vocabulary: int, chunk_size: int | None) -> int:
    """How many of the tokens [N, d] make a chunk, if `chunk_size` does not say so."""
    return min(chunk_size or fitting(chunk_bytes(hidden.device), 2 * vocabulary * hidden.itemsize), max(1, len(hidden)))


def slabs(logits_nV: Tensor) -> list[slice]:
    """The rows of a chunk, a slab at a time."""
    rows = fitting(slab_bytes(logits_nV.device), logits_nV.shape[1] * 4)
    return [slice(start, start + rows) for start in range(0, len(logits_nV), rows)]


def chunk_bytes(device: torch.device) -> int:
    """Both logits of a chunk, on that device."""
    return CHUNK_BYTES if device.type == "cpu" else _CHUNK_BYTES_GPU


def slab_bytes(device: torch.device) -> int:
    """One temporary of a slab, on that device; there are up to SLAB_TEMPORARIES of them."""
    return _SLAB_BYTES_CPU if device.type == "cpu" else _SLAB_BYTES


def fitting(budget: int, row: int) -> int:
    """How many rows of `row` bytes fit into `budget` bytes, at least one."""
    return max(1, budget // max(1, row))
