"""The divergence of two next-token distributions, D in L_OPSD = mean_t D(p_T || p_S) (eq. 3 of PHF, arXiv 2606.29340).

Kinds: Jensen-Shannon, forward KL, reverse KL. Options: a clip, and a restriction to the likeliest vocabulary entries.
S is the student's distribution, T the teacher's, M = beta T + (1 - beta) S their mixture.
Shapes: N or n tokens, V vocabulary, k entries that the distributions are restricted to.
"""

import math
from collections.abc import Sequence
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
    stops: tuple[int, ...]


@dataclass(frozen=True)
class DivergenceSpec:
    """The options of a divergence, validated; `divergence` explains each of them.

    Raises:
        ValueError: an unknown name, an option out of range, or options that contradict each other.
    """

    kind: Kind = "jsd"
    beta: float = 0.5
    temperature: float = 1.0
    clip: float | None = None
    clip_mode: ClipMode = "element"
    top_k: int | None = None
    support: Support = "teacher"
    tail: bool = False
    teacher_temperature: float | None = None
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {self.kind!r}")
        if self.clip_mode not in get_args(ClipMode):
            raise ValueError(f"clip_mode must be one of {', '.join(get_args(ClipMode))}; got {self.clip_mode!r}")
        if self.kind == "jsd" and not 0 < self.beta < 1:
            raise ValueError(f"beta of jsd must be between 0 and 1, both excluded; got {self.beta}")
        for temperature in (self.temperature, self.resolved_teacher_temperature):
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(f"temperature must be positive and finite; got {temperature}")
        if self.support not in get_args(Support):
            raise ValueError(f"support must be one of {', '.join(get_args(Support))}; got {self.support!r}")
        if self.top_k is None and (self.tail or self.support != "teacher"):
            raise ValueError("support and tail describe the top_k entries, so they need top_k")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clip; got {self.clip}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None for the full vocabulary; got {self.top_k}")

    @property
    def resolved_teacher_temperature(self) -> float:
        """The temperature that divides the teacher's logits."""
        return self.temperature if self.teacher_temperature is None else self.teacher_temperature


class VocabularyTerms(NamedTuple):
    """The summands f_v of a divergence D = sum_v f_v, and what the closed-form gradient needs."""

    value: Tensor  # [..., V]  f_v in nats, before any clip
    slope: Tensor  # [..., V]  g_v = d f_v / d ln S_v
    student_p: Tensor  # [..., V]  S_v
    entropy: Tensor  # [...]  of S, in nats, without a gradient


def vocabulary_terms(student_logits: Tensor, teacher_logits: Tensor, spec: DivergenceSpec) -> VocabularyTerms:
    """The unclipped summands of the divergence from FINITE logits [..., V]; in float32, or float64 for float64.

    docs/math.md, "Output channel", has f_v and g_v of each kind.
    """
    log_S = _log_probs(student_logits, spec.temperature)
    log_T = _log_probs(teacher_logits, spec.resolved_teacher_temperature)
    S, T = log_S.exp(), log_T.exp()
    entropy = -torch.linalg.vecdot(S.detach(), log_S.detach())
    if spec.kind == "forward_kl":
        return VocabularyTerms(T * (log_T - log_S), -T, S, entropy)  # f = T ln(T / S), g = -T
    if spec.kind == "reverse_kl":
        value = S * (log_S - log_T)  # f = S ln(S / T)
        return VocabularyTerms(value, value + S, S, entropy)  # g = f + S
    # M >= min(beta, 1-beta) max(S, T), so the mixture loses no precision outside log space, and costs one logarithm
    log_M = torch.lerp(S, T, spec.beta).clamp(min=torch.finfo(S.dtype).tiny).log()
    student_part, teacher_part = S * (log_S - log_M), T * (log_T - log_M)
    value = torch.lerp(student_part, teacher_part, spec.beta)  # f = beta T ln(T / M) + (1 - beta) S ln(S / M)
    return VocabularyTerms(value, student_part * (1 - spec.beta), S, entropy)  # g = (1 - beta) S ln(S / M)


@dataclass(frozen=True)
class Contrast:
    """A target made of several of a teacher's readings: softmax(ln p_0 + bounded(ln p_A - ln p_B) / beta).

    Attributes:
        places: the indices of p_0, p_A and p_B among the readings.
        beta: divides the contrast.
        bound: c; the contrast is centred by its mean over the vocabulary, then becomes c tanh(contrast / c).
        floor: ln p_B counts at least so much.
    """

    places: tuple[int, int, int]
    beta: float = 1.0
    bound: float | None = None
    floor: float | None = None

    @property
    def readings(self) -> int:
        """Their number."""
        return max(self.places) + 1


def contrast_logits(readings: Sequence[Tensor], contrast: Contrast, temperature: float = 1.0) -> Tensor:
    """The logits of the target, [..., V]: softmax(logits / temperature) is the target's distribution.

    Args:
        readings: the teacher's logits [..., V] under each context.
        temperature: divides each of them, too.
    """
    log_p = [_log_probs(logits.clamp(min=LOWEST_LOGIT), temperature) for logits in readings]
    start, plus, minus = (log_p[place] for place in contrast.places)
    difference = plus - (minus if contrast.floor is None else minus.clamp(min=contrast.floor))
    if contrast.bound is not None:
        centred = difference - difference.mean(-1, keepdim=True)
        difference = contrast.bound * (centred / contrast.bound).tanh()
    return (start + difference / contrast.beta) * temperature


def logits_entropy(logits: Tensor, temperature: float) -> Tensor:
    """The entropy of softmax(logits / temperature), in nats: [..., V] -> [...]."""
    log_p = _log_probs(logits, temperature)
    negative: Tensor = torch.linalg.vecdot(log_p.exp(), log_p)
    return -negative


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    logits = working(logits)
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


# Stands for the logit -inf. Finite, so that 0 ln 0 = 0 without a mask and a clipped entry's gradient is 0, not NaN.
LOWEST_LOGIT = -1e30


def merge_stops(logits: Tensor, stops: tuple[int, ...], temperature: float) -> Tensor:
    """The logits [..., V] with all stops in the place of the first one, and nothing in that of the others.

    z = temperature ln sum_v exp(z_v / temperature) over the stops v, so the one entry has the sum of their probability.
    """
    if len(stops) < 2:
        return logits
    index = list(stops)
    merged = working(logits).clone()
    merged[..., index] = LOWEST_LOGIT
    merged[..., index[0]] = (working(logits)[..., index] / temperature).logsumexp(-1) * temperature
    return merged


def spread_to_stops(gradient: Tensor, logits: Tensor, spec: DivergenceSpec) -> Tensor:
    """The gradient to the merged logits -> the gradient to `logits`: each stop's part is its share of all of them."""
    if len(spec.stops) > 1:
        index = list(spec.stops)
        share = (working(logits)[..., index] / spec.temperature).softmax(-1)
        gradient[..., index] = gradient[..., index[:1]] * share
    return gradient


class Restricted(NamedTuple):
    """The student's and the teacher's logits on the vocabulary entries that the divergence is restricted to."""

    student: Tensor  # [..., k], or k + 1 with the tail
    teacher: Tensor
    entries: Tensor | None  # [..., k] indices into the vocabulary, or None without a restriction


def restrict(student: Tensor, teacher: Tensor, spec: DivergenceSpec) -> Restricted:
    """Restricts logits [..., V] to the entries that `top_k`, `support` and `tail` of the spec select."""
    entries = _entries(student.detach(), teacher, spec)
    if entries is None:
        return Restricted(student, teacher, None)
    parts = []
    repeated = _repeated(entries) if spec.support == "union" else None
    for logits, temperature in ((student, spec.temperature), (teacher, spec.resolved_teacher_temperature)):
        selected = logits.gather(-1, entries)
        if repeated is not None:  # an entry that both supports name must count once
            selected = selected.masked_fill(repeated, LOWEST_LOGIT)
        parts.append(torch.cat((selected, tail_logit(logits, entries, temperature)), -1) if spec.tail else selected)
    return Restricted(parts[0], parts[1], entries)


def spread_gradient(gradient: Tensor, logits: Tensor, restricted: Restricted, spec: DivergenceSpec) -> Tensor:
    """The gradient to the student's restricted logits [n, k] -> the gradient to all its `logits`, [n, V]."""
    if restricted.entries is None:
        return gradient
    count = restricted.entries.shape[-1]
    whole = torch.zeros_like(logits, dtype=gradient.dtype)
    if spec.tail:
        # the tail's logit is a log-sum-exp, so its gradient reaches each entry in proportion to the entry's softmax
        log_share = (working(logits) - restricted.student[..., count:]) / spec.temperature
        whole = log_share.exp() * gradient[..., count:]
        whole.scatter_(-1, restricted.entries, 0)
    return whole.scatter_add_(-1, restricted.entries, gradient[..., :count])


def tail_logit(logits: Tensor, entries: Tensor, temperature: float) -> Tensor:
    """The logit of the tail, one entry for all entries except `entries`: [..., V] and [..., k] -> [..., 1].

    z = temperature ln sum_v exp(z_v / temperature) over the entries v outside `entries`.
    """
    others = working(logits).scatter(-1, entries, LOWEST_LOGIT) / temperature
    return others.logsumexp(-1, keepdim=True) * temperature


def entry_count(vocabulary: int, spec: DivergenceSpec) -> int:
    """The number of entries that the divergence of a token sums over; with support "union" shared ones count twice."""
    if spec.top_k is None or spec.top_k >= vocabulary:
        return vocabulary
    return spec.top_k * (2 if spec.support == "union" else 1) + spec.tail


def _entries(student: Tensor, teacher: Tensor, spec: DivergenceSpec) -> Tensor | None:
    if spec.top_k is None or spec.top_k >= teacher.shape[-1]:
        return None
    chosen = {"teacher": (teacher,), "student": (student,), "union": (teacher, student)}[spec.support]
    return torch.cat([logits.topk(spec.top_k, dim=-1, sorted=False).indices for logits in chosen], -1)


def _repeated(entries: Tensor) -> Tensor:
    """[..., 2 k] bool: True for an entry of the second half that the first half holds too."""
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
    stops: tuple[int, ...] = (),
) -> Tensor:
    """The divergence D of each token (eq. 3), in nats; the gradient flows to the student's logits only.

    Args:
        student_logits, teacher_logits: [N, V] (or any leading shape). A logit of -inf is an entry of probability zero;
            a KL divergence that it makes infinite comes out near 1e30 times the probability without support.
        kind: "jsd" is beta KL(T || M) + (1 - beta) KL(S || M) with M = beta T + (1 - beta) S; "forward_kl" is
            KL(T || S), "reverse_kl" KL(S || T).
        beta: the teacher's weight in jsd, in (0, 1).
        temperature: divides both logits; the gradient is not rescaled.
        clip: an upper bound in nats, or None. A value above it becomes the bound and has no gradient.
        clip_mode: "element" clips each vocabulary entry before the sum over the vocabulary, "token" clips the sum.
            The entries of a KL divergence can be negative and have no lower bound, so their clipped sum can be
            negative too.
        top_k: restricts both distributions to `top_k` entries and renormalises them there; None is the vocabulary.
        support: whose likeliest entries `top_k` takes: the teacher's, the student's, or the union of both, in which an
            entry counts once.
        tail: adds one entry that holds the probability of all entries outside `top_k`, in the place of renormalising.
        teacher_temperature: divides the teacher's logits; None means `temperature`.
        stops: entries that count as one, whose probability is the sum of theirs: tokens that all end a completion.

    Returns:
        [N] in float32, or float64 for float64 logits.

    Raises:
        ValueError: an unknown name, an option out of range, or logits of different shapes.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"student and teacher logits must have one shape; got {shapes}")
    spec = DivergenceSpec(kind, beta, temperature, clip, clip_mode, top_k, support, tail, teacher_temperature, stops)
    student_logits = merge_stops(working(student_logits).clamp(min=LOWEST_LOGIT), stops, temperature)
    teacher_logits = working(teacher_logits.detach()).clamp(min=LOWEST_LOGIT)
    teacher_logits = merge_stops(teacher_logits, stops, spec.resolved_teacher_temperature)
    restricted = restrict(student_logits, teacher_logits, spec)
    value = vocabulary_terms(restricted.student, restricted.teacher, spec).value
    if clip is None:
        return value.sum(-1)
    return value.clamp(max=clip).sum(-1) if clip_mode == "element" else value.sum(-1).clamp(max=clip)


def sampled_reverse_kl(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """An estimate of KL(S || T) from the one sampled token y of each position, [N] in nats (OPD, support "sampled").

    A policy-gradient loss -A S(y) / sg[S(y)] with the constant advantage A = ln T(y) - ln S(y). Over y ~ S its mean is
    the reverse KL and the mean of its gradient is the gradient of the reverse KL.

    Args:
        logprobs, teacher_logprobs: [N] log-probabilities ln S(y) and ln T(y) of the sampled tokens, in nats; the
            gradient flows to `logprobs` only.
    """
    advantages = (teacher_logprobs - logprobs).detach()
    return -advantages * (logprobs - logprobs.detach()).exp()  # the ratio is 1, its gradient that of ln S(y)
