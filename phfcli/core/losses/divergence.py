"""The divergence of two next-token distributions: Jensen-Shannon, forward and reverse KL, with clip and support."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor

from phfcli.core.losses.positions import working

Kind = Literal["jsd", "forward_kl", "reverse_kl"]
ClipMode = Literal["element", "token"]
Support = Literal["teacher", "student", "union"]


class DivergenceOptions(TypedDict, total=False):
    """The fields of `DivergenceSpec`, as keyword arguments."""

    kind: Kind
    beta: float
    temperature: float
    clip: float | None
    clip_mode: ClipMode
    top_k: int | None
    support: Support
    tail: bool
    teacher_temperature: float | None


@dataclass(frozen=True)
class DivergenceSpec:
    """Which divergence, validated; `clip` is in nats. See `phfcli.core.losses.divergence.divergence`."""

    kind: Kind = "jsd"
    beta: float = 0.5
    temperature: float = 1.0
    clip: float | None = None
    clip_mode: ClipMode = "element"
    top_k: int | None = None
    support: Support = "teacher"
    tail: bool = False
    teacher_temperature: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {self.kind!r}")
        if self.clip_mode not in get_args(ClipMode):
            raise ValueError(f"clip_mode must be one of {', '.join(get_args(ClipMode))}; got {self.clip_mode!r}")
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ValueError(f"beta of jsd must be between 0 and 1, both excluded; got {self.beta}")
        for temperature in (self.temperature, self.of_teacher):
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"temperature must be positive and finite; got {temperature}")
        if self.support not in get_args(Support):
            raise ValueError(f"support must be one of {', '.join(get_args(Support))}; got {self.support!r}")
        if self.top_k is None and (self.tail or self.support != "teacher"):
            raise ValueError("a support and a tail are of the top_k entries; without top_k there are none")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clip; got {self.clip}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None for the full vocabulary; got {self.top_k}")

    @property
    def of_teacher(self) -> float:
        """The temperature of the teacher's logits."""
        return self.temperature if self.teacher_temperature is None else self.teacher_temperature


class VocabularyTerms(NamedTuple):
    """The terms of every vocabulary entry and what their gradient needs, [..., V]; the student's entropy, [...]."""

    value: Tensor
    slope: Tensor
    student_p: Tensor
    entropy: Tensor  # in nats, without a gradient


def vocabulary_terms(student_logits: Tensor, teacher_logits: Tensor, spec: DivergenceSpec) -> VocabularyTerms:
    """The unclipped entries of FINITE logits [..., V]; float32 inside, float64 for float64."""
    log_S = _log_probs(student_logits, spec.temperature)
    log_T = _log_probs(teacher_logits, spec.of_teacher)
    S, T = log_S.exp(), log_T.exp()
    entropy = -torch.linalg.vecdot(S.detach(), log_S.detach())
    if spec.kind == "forward_kl":
        return VocabularyTerms(T * (log_T - log_S), -T, S, entropy)
    if spec.kind == "reverse_kl":
        value = S * (log_S - log_T)
        return VocabularyTerms(value, value + S, S, entropy)
    # M >= min(beta, 1-beta) max(S, T), so the mixture loses no precision outside log space, and costs one logarithm
    log_M = torch.lerp(S, T, spec.beta).clamp(min=torch.finfo(S.dtype).tiny).log()
    student_part, teacher_part = S * (log_S - log_M), T * (log_T - log_M)
    value = torch.lerp(student_part, teacher_part, spec.beta)
    return VocabularyTerms(value, student_part * (1 - spec.beta), S, entropy)


def logits_entropy(logits: Tensor, temperature: float) -> Tensor:
    """The entropy of each distribution, in nats: [..., V] -> [...]."""
    log_p = _log_probs(logits, temperature)
    negative: Tensor = torch.linalg.vecdot(log_p.exp(), log_p)
    return -negative


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    logits = working(logits)
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


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


def divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    kind: Kind = "jsd",
    beta: float = 0.5,
    temperature: float = 1.0,
    clip: float | None = None,
    clip_mode: ClipMode = "element",
    top_k: int | None = None,
    support: Support = "teacher",
    tail: bool = False,
    teacher_temperature: float | None = None,
) -> Tensor:
    """The divergence of each token, in nats; the gradient flows to the student's logits only.

    Args:
        student_logits, teacher_logits: [N, V] (or any leading shape). A logit of -inf is an entry of probability zero;
            a KL divergence that it makes infinite comes out near 1e30 times the probability without support.
        kind: "jsd" is beta KL(T || M) + (1 - beta) KL(S || M) with M = beta T + (1 - beta) S; "forward_kl" is
            KL(T || S), "reverse_kl" KL(S || T).
        beta: the teacher's weight in jsd, in (0, 1).
        temperature: divides both logits; the gradient is not rescaled.
        clip: the largest value kept; what lies above it is held there and gives no gradient.
        clip_mode: "element" clips each vocabulary entry before the sum over the vocabulary, "token" clips the sum.
            Entries of a KL divergence can be negative and are not clipped from below: their clipped sum can be too.
        top_k: restrict both distributions to `top_k` entries, renormalised there.
        support: whose likeliest entries those are; "union" is the teacher's and the student's, each counted once.
        tail: nothing is renormalised; all other entries together are one more.
        teacher_temperature: divides the teacher's logits; None is `temperature`.

    Returns:
        [N] in float32, or float64 for float64 logits.

    Raises:
        ValueError: an unknown name, a setting out of range, or logits of different shapes.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"student and teacher logits must have one shape; got {shapes}")
    spec = DivergenceSpec(kind, beta, temperature, clip, clip_mode, top_k, support, tail, teacher_temperature)
    student_logits = working(student_logits).clamp(min=LOWEST_LOGIT)
    teacher_logits = working(teacher_logits.detach()).clamp(min=LOWEST_LOGIT)
    restricted = restrict(student_logits, teacher_logits, spec)
    value = vocabulary_terms(restricted.student, restricted.teacher, spec).value
    if clip is None:
        return value.sum(-1)
    return value.clamp(max=clip).sum(-1) if clip_mode == "element" else value.sum(-1).clamp(max=clip)


def sampled_reverse_kl(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """The estimate of each token, [N], with the policy gradient of the advantage ln T(y) - ln S(y), a constant.

    Args:
        logprobs, teacher_logprobs: [N] of the sampled tokens, in nats; the gradient flows to `logprobs` only.
    """
    advantages = (teacher_logprobs - logprobs).detach()
    return -advantages * (logprobs - logprobs.detach()).exp()  # a ratio of 1 with the gradient of ln S(y)
