"""Reads the student's own rollouts: its entropy at each token, and how far each context moves the teacher from it.

Shapes: N tokens of all rollouts, in their order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.analysis.probe.answers import Answer
from phfcli.core.analysis.probe.experiment import OTHER, REFERENCE, Experiment
from phfcli.core.analysis.probe.token_kinds import KINDS, token_kind
from phfcli.core.losses.divergence.fused import ClipStats, fused_divergence_stats
from phfcli.core.losses.token_parts import position_part
from phfcli.core.models.passes import Batch, Sample, collate, run_pass

Prompts = Mapping[str, Sequence[list[int] | None]]  # of each context, one for each rollout


@dataclass(frozen=True)
class ContextTokens:
    """What the teacher under one context says of each token."""

    divergence: Tensor  # [N] from the student, in nats, before any clip
    there: Tensor  # [N] bool: the rollout has this context
    raw: float  # the sum of the divergence, and what the clip leaves of it
    clipped: float


@dataclass(frozen=True)
class TokenReadings:
    """Of each token of the student's rollouts."""

    rollout: Tensor  # [N], which rollout it is of
    offset: Tensor  # [N], its place there
    part: Tensor  # [N], its sixteenth
    kind: Tensor  # [N], a place in KINDS
    entropy: Tensor  # [N] of the student, in nats
    contexts: Mapping[str, ContextTokens]
    beside_other: Tensor  # [N]: between the teacher with the reference and with another problem's


@torch.no_grad()
def read_tokens(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> TokenReadings:
    """Passes over the rollouts, a micro-batch at a time: one as the student, one for each context."""
    experiment.model.network.eval()
    parts = list(_read(experiment, plain, prompts))
    rollout, offset = torch.cat([part.rollout for part in parts]), torch.cat([part.offset for part in parts])
    return TokenReadings(
        rollout,
        offset,
        torch.cat([part.part for part in parts]),
        torch.cat([part.kind for part in parts]),
        torch.cat([part.entropy for part in parts]),
        {name: _joined([part.contexts[name] for part in parts]) for name in prompts},
        torch.cat([part.beside_other for part in parts]),
    )


def _read(experiment: Experiment, plain: Sequence[Answer], prompts: Prompts) -> Iterator[TokenReadings]:
    size = experiment.config.micro_batch_size
    for start in range(0, len(plain), size):
        own = {name: of[start : start + size] for name, of in prompts.items()}
        yield _read_batch(experiment, plain[start : start + size], own, start)


def _read_batch(experiment: Experiment, answers: Sequence[Answer], prompts: Prompts, first: int) -> TokenReadings:
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
    return TokenReadings(
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
