"""The formulas: what one vocabulary entry adds to a divergence, and its derivative.

S and T are the next-token distributions of student and teacher over V entries, M = beta T + (1 - beta) S:

    kind         value of an entry                              slope: d value / d ln S
    jsd          beta T ln(T/M) + (1-beta) S ln(S/M)            (1-beta) S ln(S/M)
    forward_kl   T ln(T/S)           KL(teacher || student)     -T
    reverse_kl   S ln(S/T)           KL(student || teacher)     value + S

An entry of jsd is never negative; one of the two KL divergences may be. With z the logits and S = softmax(z / t) the
gradient of the summed values is (slope - S sum(slope)) / t.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor

from phfcli.core.losses.shared import working

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
    """Which divergence, validated; `clip` is in nats. See `phfcli.core.losses.divergence.plain.divergence`."""

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
