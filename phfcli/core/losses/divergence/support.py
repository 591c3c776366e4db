"""The entries of the vocabulary on which two distributions are compared, and what lies beside them.

With `top_k` both are restricted to the k likeliest entries of the teacher, of the student, or of either of them, and
renormalised there. With `tail` nothing is renormalised: all other entries are one more, whose logit at temperature t is

    z_tail = t ln sum_{v not in K} exp(z_v / t),      so that softmax(z_K, z_tail) = (S_K, 1 - sum S_K)

and whose gradient goes to them in the shares exp((z_v - z_tail) / t). Shapes: n tokens, V vocabulary, k entries.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from phfcli.core.losses.divergence.vocabulary_terms import DivergenceSpec
from phfcli.core.losses.shared import working

# Stands for the logit -inf. Finite, so that 0 ln 0 = 0 without a mask and a clipped entry's gradient is 0, not NaN.
LOWEST_LOGIT = -1e30


class Restricted(NamedTuple):
    """Both logits on the entries that count."""

    student: Tensor  # [..., k], or k + 1 with the tail
    teacher: Tensor
    entries: Tensor | None  # [..., k] indices, or None where the whole vocabulary counts


def restrict(student: Tensor, teacher: Tensor, spec: DivergenceSpec) -> Restricted:
    """Logits [..., V] on the entries that the settings name."""
    entries = _entries(student.detach(), teacher, spec)
    if entries is None:
        return Restricted(student, teacher, None)
    parts = []
    twice = _repeated(entries) if spec.support == "union" else None
    for logits, temperature in ((student, spec.temperature), (teacher, spec.of_teacher)):
        own = logits.gather(-1, entries)
        if twice is not None:
            own = own.masked_fill(twice, LOWEST_LOGIT)
        parts.append(torch.cat((own, tail_logit(logits, entries, temperature)), -1) if spec.tail else own)
    return Restricted(parts[0], parts[1], entries)


def spread_gradient(gradient: Tensor, logits: Tensor, restricted: Restricted, spec: DivergenceSpec) -> Tensor:
    """The gradient to the student's restricted logits [n, k] as one to all of them, `logits` [n, V]."""
    if restricted.entries is None:
        return gradient
    count = restricted.entries.shape[-1]
    whole = torch.zeros_like(logits, dtype=gradient.dtype)
    if spec.tail:
        apart = (working(logits) - restricted.student[..., count:]) / spec.temperature
        whole = apart.exp() * gradient[..., count:]
        whole.scatter_(-1, restricted.entries, 0)
    return whole.scatter_add_(-1, restricted.entries, gradient[..., :count])


def tail_logit(logits: Tensor, entries: Tensor, temperature: float) -> Tensor:
    """[..., V] and the entries that stand alone [..., k] -> [..., 1]: the one entry that all others make."""
    others = working(logits).scatter(-1, entries, LOWEST_LOGIT) / temperature
    return others.logsumexp(-1, keepdim=True) * temperature


def entry_count(vocabulary: int, spec: DivergenceSpec) -> int:
    """How many entries a token has, one that both supports name counted twice."""
    if spec.top_k is None or spec.top_k >= vocabulary:
        return vocabulary
    return spec.top_k * (2 if spec.support == "union" else 1) + spec.tail


def _entries(student: Tensor, teacher: Tensor, spec: DivergenceSpec) -> Tensor | None:
    if spec.top_k is None or spec.top_k >= teacher.shape[-1]:
        return None
    chosen = {"teacher": (teacher,), "student": (student,), "union": (teacher, student)}[spec.support]
    return torch.cat([logits.topk(spec.top_k, dim=-1, sorted=False).indices for logits in chosen], -1)


def _repeated(entries: Tensor) -> Tensor:
    """[..., 2 k]: the second half's entries that the first half has."""
    first, second = entries.chunk(2, -1)
    again = (second[..., :, None] == first[..., None, :]).any(-1)
    return torch.cat((torch.zeros_like(again), again), -1)
