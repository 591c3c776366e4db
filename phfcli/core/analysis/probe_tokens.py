"""Reads the student's rollouts under each context: the student's entropy at each token, and the teacher's divergence.

Shapes: N tokens of all rollouts one after the other, d hidden size.
"""

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
FIRST_TOKENS = 10  # tokens at the start of each rollout
FORKS = 0.05  # share of the tokens, those of the highest entropy
_RESAMPLES = 2000
_THINK = re.compile(r"</?think(?:ing)?>")
_OPERATORS = frozenset("+-*/=<>^%×÷·±≤≥≠\\{}_")
Prompts = Mapping[str, Sequence[list[int] | None]]  # context -> teacher's prompt for each rollout, or None


@dataclass(frozen=True)
class ContextTokens:
    """The teacher's divergence from the student at each token, under one context."""

    divergence: Tensor  # [N] in nats, without the clip
    available: Tensor  # [N] bool: whether the token's rollout has this context
    raw: float  # the sum of the divergence without the clip
    clipped: float  # the sum of the divergence with the clip


@dataclass(frozen=True)
class RolloutTokens:
    """The tokens of the student's rollouts, and what student and teachers predict at them."""

    rollout: Tensor  # [N], the index of the token's rollout
    offset: Tensor  # [N], the index of the token in its completion
    part: Tensor  # [N], the sixteenth of the completion
    kind: Tensor  # [N], an index into KINDS
    entropy: Tensor  # [N] of the student, in nats
    contexts: Mapping[str, ContextTokens]
    reference_to_control: Tensor  # [N], divergence of the teachers with the reference and with another problem's


@dataclass(frozen=True)
class ContextFinding:
    """The measurements of one context on the student's rollouts. Divergences are in nats a token.

    Attributes:
        rollouts: the number of rollouts that have the context.
        score, stderr: of the model with the context; None if no rollout has it.
        gain: that score minus the plain one, paired by problem.
        divergence: of teacher and student, mean over tokens.
        right, wrong: the divergence on right and on wrong rollouts; None if there are none.
        by_position: the divergence by sixteenth of the rollout.
        by_entropy: the divergence between ENTROPY_EDGES of the student's entropy.
        by_kind: kind of token -> its mean divergence and its share of the tokens.
        first_share, fork_share: the shares of the divergence in the first tokens and in the forks.
        clip_share: the share of the divergence that the clip removes.
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
    """The share of the reference's divergence that the control does not explain, with a 95% interval over rollouts.

    The control is the teacher with another problem's reference. At each token the divergence between the teachers with
    the reference and with the control counts as information, at most the divergence from the student. 1 is all
    information, 0 all style.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class EntropyFinding:
    """The student's entropy in nats a token: on all rollouts, on right ones and on wrong ones."""

    mean: float
    right: float | None
    wrong: float | None
    fork_above: float  # nats: the smallest entropy of a fork
    tokens_by_level: list[float]  # shares of the tokens between ENTROPY_EDGES


@torch.no_grad()
def read_tokens(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> RolloutTokens:
    """Reads the rollouts by micro-batch: one pass as the student, one as the teacher for each context."""
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
        torch.cat([part.reference_to_control for part in parts]),
    )


def _read(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> Iterator[RolloutTokens]:
    size = experiment.config.micro_batch_size
    for start in range(0, len(plain), size):
        batch_prompts = {name: rollouts[start : start + size] for name, rollouts in prompts.items()}
        yield _read_batch(experiment, plain[start : start + size], batch_prompts, start)


def _read_batch(experiment: Experiment, answers: Sequence[Answer], prompts: Prompts, first: int) -> RolloutTokens:
    model = experiment.model
    samples = [Sample(answer.prompt, None, answer.completion.ids) for answer in answers]
    batch = _collate(experiment, samples)
    rows, offsets = batch.tokens
    student = run_pass(model, batch.student, batch, ()).hidden
    teachers = {name: _teacher(experiment, samples, context_prompts) for name, context_prompts in prompts.items()}
    divergences = {name: _divergence(experiment, student, hidden) for name, hidden in teachers.items()}
    contexts = {}
    for name, stats in divergences.items():
        available = torch.tensor([prompt is not None for prompt in prompts[name]], device=rows.device)[rows]
        contexts[name] = ContextTokens(stats.divergence.cpu(), available.cpu(), stats.raw.item(), stats.clipped.item())
    return RolloutTokens(
        rollout=(rows + first).cpu(),
        offset=offsets.cpu(),
        part=position_part(offsets, batch.lengths[rows]).cpu(),
        kind=_kinds(experiment, batch.token_ids),
        entropy=divergences[REFERENCE].entropy.cpu(),
        contexts=contexts,
        reference_to_control=_divergence(experiment, teachers[OTHER], teachers[REFERENCE]).divergence.cpu(),
    )


def _teacher(experiment: Experiment, samples: Sequence[Sample], prompts: Sequence[list[int] | None]) -> Tensor:
    """The head's inputs [N, d] of the teacher after these prompts; after the student's prompt where one is None."""
    prompted = [replace(s, teacher_prompt=p or s.student_prompt) for s, p in zip(samples, prompts, strict=True)]
    batch = _collate(experiment, prompted)
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


def token_kind(text: str, ends: bool) -> str:
    """The kind of a token, one of KINDS, from its text.

    Args:
        ends: whether it is an end-of-sequence token.
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


def _joined(parts: Sequence[ContextTokens]) -> ContextTokens:
    return ContextTokens(
        torch.cat([part.divergence for part in parts]),
        torch.cat([part.available for part in parts]),
        sum(part.raw for part in parts),
        sum(part.clipped for part in parts),
    )


def context_finding(
    name: str, tokens: RolloutTokens, right: Tensor, plain: Scores, privileged: Scores
) -> ContextFinding:
    """The measurements of one context.

    Args:
        right: [rollouts] bool, whether each of the student's rollouts is right.
        plain, privileged: the scores without and with the context.
    """
    context = tokens.contexts[name]
    available = context.available
    values, entropy = context.divergence[available], tokens.entropy[available]
    ok = right[tokens.rollout[available]]
    mean = average(list(privileged.values())) if privileged else None
    return ContextFinding(
        name=name,
        rollouts=len(set(tokens.rollout[available].tolist())),
        score=None if mean is None else mean.average,
        stderr=None if mean is None else mean.stderr,
        gain=paired_difference(privileged, plain) if privileged else None,
        divergence=_mean(values) or 0.0,
        right=_mean(values[ok]),
        wrong=_mean(values[~ok]),
        by_position=_by_part(values, tokens.part[available], POSITION_PARTS),
        by_entropy=_by_part(values, entropy_part(entropy), len(ENTROPY_EDGES) + 1),
        by_kind=_by_kind(values, tokens.kind[available]),
        first_share=_share(values, tokens.offset[available] < FIRST_TOKENS),
        fork_share=_share(values, _forks(entropy)),
        clip_share=_clip_share(context),
    )


def information(tokens: RolloutTokens, seed: int = 0) -> Information:
    """The share of information; the interval is a bootstrap over rollouts.

    Args:
        seed: of the bootstrap.
    """
    signal = tokens.contexts[REFERENCE].divergence
    information_part = torch.minimum(signal, tokens.reference_to_control)
    count = int(tokens.rollout.max()) + 1
    sums = np.array(
        [sums_by_part(part.double(), tokens.rollout, count)[0].tolist() for part in (information_part, signal)]
    )
    drawn = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
    above, below = sums[:, drawn].sum(-1)
    low, high = np.percentile(above / np.maximum(below, 1e-30), [2.5, 97.5])
    return Information(float(sums[0].sum() / max(sums[1].sum(), 1e-30)), float(low), float(high))


def entropy_finding(tokens: RolloutTokens, right: Tensor) -> EntropyFinding:
    """The student's entropy over all tokens of its rollouts; `right` says which rollouts are right, [rollouts] bool."""
    entropy, ok = tokens.entropy, right[tokens.rollout]
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
    """Kind of token -> (mean value, share of the tokens), of the kinds that occur."""
    by_kind = {}
    for index, name in enumerate(KINDS):
        chosen = values[kind == index]
        if len(chosen):
            by_kind[name] = (chosen.mean().item(), len(chosen) / len(values))
    return by_kind


def _share(values: Tensor, chosen: Tensor) -> float:
    total = values.sum().item()
    return values[chosen].sum().item() / total if total else 0.0


def _forks(entropy: Tensor) -> Tensor:
    """[N] bool: the tokens of the highest entropy, a share FORKS of all and at least one."""
    most = entropy.topk(max(1, round(FORKS * len(entropy)))).indices if len(entropy) else entropy.long()
    return torch.zeros_like(entropy, dtype=torch.bool).index_fill(0, most, True)


def _clip_share(context: ContextTokens) -> float:
    return (context.raw - context.clipped) / context.raw if context.raw else 0.0
