"""Reads the student's rollouts under each context, token by token: its entropy, and how far the teacher is from it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from phfcli.core.analysis.differences import PairedDifference, Scores, paired_difference
from phfcli.core.analysis.probe_answers import OTHER, REFERENCE, Answer, Experiment
from phfcli.core.evaluation.scores import average
from phfcli.core.losses.fused_divergence import ClipStats, fused_divergence_stats
from phfcli.core.losses.positions import ENTROPY_EDGES, POSITION_PARTS, entropy_part, position_part, sums_by_part
from phfcli.core.models.passes import Batch, Sample, collate, run_pass

KINDS = ("end", "think boundary", "digit", "operator", "word", "space and punctuation", "other")

_THINK = re.compile(r"</?think(?:ing)?>")
_OPERATORS = frozenset("+-*/=<>^%×÷·±≤≥≠\\{}_")


def token_kind(text: str, ends: bool) -> str:
    """The kind of a token from its text.

    ends: whether it ends a completion.
    """
    core = text.strip()
    if ends:
        return "end"
    if _THINK.search(core):
        return "think boundary"
    if any(character.isdigit() for character in core):
        return "digit"
    if any(character in _OPERATORS for character in core):
        return "operator"
    if any(character.isalpha() for character in core):
        return "word"
    return "space and punctuation" if not core or core.isprintable() else "other"


Prompts = Mapping[str, Sequence[list[int] | None]]  # of each context, one for each rollout


@dataclass(frozen=True)
class ContextTokens:
    """What the teacher under one context says of each token."""

    divergence: Tensor  # [N] from the student, in nats, before any clip
    there: Tensor  # [N] bool: the rollout has this context
    raw: float  # the sum of the divergence, and what the clip leaves of it
    clipped: float


@dataclass(frozen=True)
class RolloutTokens:
    """Of each token of the student's rollouts."""

    rollout: Tensor  # [N], which rollout it is of
    offset: Tensor  # [N], its place there
    part: Tensor  # [N], its sixteenth
    kind: Tensor  # [N], a place in KINDS
    entropy: Tensor  # [N] of the student, in nats
    contexts: Mapping[str, ContextTokens]
    beside_other: Tensor  # [N]: between the teacher with the reference and with another problem's


@torch.no_grad()
def read_tokens(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> RolloutTokens:
    """Passes over the rollouts, a micro-batch at a time: one as the student, one for each context."""
    experiment.model.network.eval()
    parts = list(_read(experiment, plain, prompts))
    rollout, offset = torch.cat([part.rollout for part in parts]), torch.cat([part.offset for part in parts])
    return RolloutTokens(
        rollout,
        offset,
        torch.cat([part.part for part in parts]),
        torch.cat([part.kind for part in parts]),
        torch.cat([part.entropy for part in parts]),
        {name: _joined([part.contexts[name] for part in parts]) for name in prompts},
        torch.cat([part.beside_other for part in parts]),
    )


def _read(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> Iterator[RolloutTokens]:
    size = experiment.config.micro_batch_size
    for start in range(0, len(plain), size):
        own = {name: of[start : start + size] for name, of in prompts.items()}
        yield _read_batch(experiment, plain[start : start + size], own, start)


def _read_batch(experiment: Experiment, answers: Sequence[Answer], prompts: Prompts, first: int) -> RolloutTokens:
    model = experiment.model
    samples = [Sample(answer.prompt, None, answer.completion.ids) for answer in answers]
    batch = _collate(experiment, samples)
    rows, offsets = batch.tokens
    student = run_pass(model, batch.student, batch, ()).hidden
    teachers = {name: _teacher(experiment, samples, own) for name, own in prompts.items()}
    read = {name: _divergence(experiment, student, hidden) for name, hidden in teachers.items()}
    contexts = {}
    for name, stats in read.items():
        there = torch.tensor([prompt is not None for prompt in prompts[name]], device=rows.device)[rows]
        contexts[name] = ContextTokens(stats.divergence.cpu(), there.cpu(), stats.raw.item(), stats.clipped.item())
    return RolloutTokens(
        rollout=(rows + first).cpu(),
        offset=offsets.cpu(),
        part=position_part(offsets, batch.lengths[rows]).cpu(),
        kind=_kinds(experiment, batch.token_ids),
        entropy=read[REFERENCE].entropy.cpu(),
        contexts=contexts,
        beside_other=_divergence(experiment, teachers[OTHER], teachers[REFERENCE]).divergence.cpu(),
    )


def _teacher(experiment: Experiment, samples: Sequence[Sample], prompts: Sequence[list[int] | None]) -> Tensor:
    """What the head reads at each token, [N, d], after these prompts; after the student's where there is none."""
    shown = [replace(s, teacher_prompt=p or s.student_prompt) for s, p in zip(samples, prompts, strict=True)]
    batch = _collate(experiment, shown)
    assert batch.teacher is not None
    return run_pass(experiment.model, batch.teacher, batch, ()).hidden


def _divergence(experiment: Experiment, student: Tensor, teacher: Tensor) -> ClipStats:
    return fused_divergence_stats(
        student,
        teacher,
        experiment.model.output_head,
        torch.ones(len(student), device=student.device),
        temperature=experiment.temperature,
        **experiment.config.divergence.of_each_token(),
    )[1]


def _collate(experiment: Experiment, samples: Sequence[Sample]) -> Batch:
    return collate(samples, 2, experiment.model.description.pad_id, experiment.model.device)


def _kinds(experiment: Experiment, ids: Tensor) -> Tensor:
    description = experiment.model.description
    known = {
        token: KINDS.index(token_kind(str(description.tokenizer.decode([token])), token in description.eos_ids))
        for token in set(ids.tolist())
    }
    return torch.tensor([known[token] for token in ids.tolist()])


def _joined(parts: Sequence[ContextTokens]) -> ContextTokens:
    return ContextTokens(
        torch.cat([part.divergence for part in parts]),
        torch.cat([part.there for part in parts]),
        sum(part.raw for part in parts),
        sum(part.clipped for part in parts),
    )


FIRST_TOKENS = 10  # of each rollout
FORKS = 0.05  # of all tokens: the most uncertain ones

_RESAMPLES = 2000


@dataclass(frozen=True)
class ContextFinding:
    """What the teacher does under one context, on the student's own rollouts. Divergences are nats a token.

    gain: its score minus the plain one, paired by problem; None where no rollout has the context.
    by_kind: of each kind of token its mean divergence and its share of the tokens.
    """

    name: str
    rollouts: int
    score: float | None
    stderr: float | None
    gain: PairedDifference | None
    divergence: float
    right: float | None
    wrong: float | None
    by_position: list[float]
    by_entropy: list[float]
    by_kind: dict[str, tuple[float, float]]
    first_share: float
    fork_share: float
    clip_share: float


@dataclass(frozen=True)
class Information:
    """How much of the reference's divergence another problem's reference does not explain; with a 95% interval.

    At each token the part counts by which the teacher with the reference differs from the one with another problem's,
    at most by which it differs from the student. 1 is all information, 0 all style.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class EntropyFinding:
    """The student's own uncertainty: nats a token, on all rollouts and by what became of them."""

    mean: float
    right: float | None
    wrong: float | None
    fork_above: float  # nats, above which the most uncertain 5% lie
    tokens_by_level: list[float]  # shares between ENTROPY_EDGES


def context_finding(
    name: str, readings: RolloutTokens, right: Tensor, plain: Scores, privileged: Scores
) -> ContextFinding:
    """right: [rollouts], of the student's own."""
    own = readings.contexts[name]
    there = own.there
    values, entropy = own.divergence[there], readings.entropy[there]
    ok = right[readings.rollout[there]]
    mean = average(list(privileged.values())) if privileged else None
    return ContextFinding(
        name=name,
        rollouts=len(set(readings.rollout[there].tolist())),
        score=None if mean is None else mean.average,
        stderr=None if mean is None else mean.stderr,
        gain=paired_difference(privileged, plain) if privileged else None,
        divergence=_mean(values) or 0.0,
        right=_mean(values[ok]),
        wrong=_mean(values[~ok]),
        by_position=_by_part(values, readings.part[there], POSITION_PARTS),
        by_entropy=_by_part(values, entropy_part(entropy), len(ENTROPY_EDGES) + 1),
        by_kind=_by_kind(values, readings.kind[there]),
        first_share=_share(values, readings.offset[there] < FIRST_TOKENS),
        fork_share=_share(values, _forks(entropy)),
        clip_share=_clip_share(own),
    )


def information(readings: RolloutTokens, seed: int = 0) -> Information:
    """From sums over each rollout, which are drawn anew for the interval."""
    signal = readings.contexts[REFERENCE].divergence
    kept = torch.minimum(signal, readings.beside_other)
    count = int(readings.rollout.max()) + 1
    sums = np.array([sums_by_part(of.double(), readings.rollout, count)[0].tolist() for of in (kept, signal)])
    drawn = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
    above, below = sums[:, drawn].sum(-1)
    low, high = np.percentile(above / np.maximum(below, 1e-30), [2.5, 97.5])
    return Information(float(sums[0].sum() / max(sums[1].sum(), 1e-30)), float(low), float(high))


def entropy_finding(readings: RolloutTokens, right: Tensor) -> EntropyFinding:
    """Of all tokens of the student's rollouts."""
    entropy, ok = readings.entropy, right[readings.rollout]
    counts = torch.bincount(entropy_part(entropy), minlength=len(ENTROPY_EDGES) + 1)
    return EntropyFinding(
        mean=_mean(entropy) or 0.0,
        right=_mean(entropy[ok]),
        wrong=_mean(entropy[~ok]),
        fork_above=entropy[_forks(entropy)].min().item(),
        tokens_by_level=(counts / len(entropy)).tolist(),
    )


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _by_part(values: Tensor, part: Tensor, parts: int) -> list[float]:
    sums, counts = sums_by_part(values, part, parts)
    means: list[float] = (sums / counts.clamp(min=1)).tolist()
    return means


def _by_kind(values: Tensor, kind: Tensor) -> dict[str, tuple[float, float]]:
    found = {}
    for place, name in enumerate(KINDS):
        own = values[kind == place]
        if len(own):
            found[name] = (own.mean().item(), len(own) / len(values))
    return found


def _share(values: Tensor, chosen: Tensor) -> float:
    total = values.sum().item()
    return values[chosen].sum().item() / total if total else 0.0


def _forks(entropy: Tensor) -> Tensor:
    """Which tokens are among the most uncertain, [N] bool; at least one."""
    most = entropy.topk(max(1, round(FORKS * len(entropy)))).indices if len(entropy) else entropy.long()
    return torch.zeros_like(entropy, dtype=torch.bool).index_fill(0, most, True)


def _clip_share(own: ContextTokens) -> float:
    return (own.raw - own.clipped) / own.raw if own.raw else 0.0
