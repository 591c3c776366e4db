"""Fits the bridge between a student's and a teacher's hidden states (OPRD-Bridge, stage 1).

Both models are frozen. The student draws rollouts and both models read them. The pairs of hidden states give the
teacher's principal components and the student's linear map onto them. Every fifth rollout is held out: it measures the
cosine of the projected states at every rank, after the fit and with a random map, which the paper calls "before".

Shapes: K pairs of layers, n positions, d and d' hidden sizes of student and teacher.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import PairMoments, Projector, cosines_by_rank, fit_student, principal_directions
from phfcli.core.models.architecture import check_layers, pair_layers, pick_layers
from phfcli.core.models.description import depth_of, stable_name, width_of
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Sample, collate, run_pass, states_with_final_norm
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.objectives.other_teachers import Bridge, ExternalTeacher, load_external
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.folder import environment, model_identity, now
from phfcli.core.runs.problems import Curriculum, SequenceLengths, build_curriculum
from phfcli.core.seeds import derive_seed
from phfcli.core.types import Request

RANK_SAME_TOKENIZER, RANK_OTHER_TOKENIZER = 8, 4  # the ranks of the paper
_HELD_OUT = 5  # every fifth rollout is held out


@dataclass(frozen=True)
class RankRow:
    """The mean cosines of held-out pairs at a rank, and the share of the teacher's variance that the rank explains."""

    rank: int
    explained: float
    before: float
    after: float


@dataclass(frozen=True)
class BridgeReport:
    """The fit of a bridge: the pairs of layers, and the cosines on held-out rollouts."""

    rank: int
    tokenizer: str  # "same" or "other"
    layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    pairs: int  # of states that the bridge was fitted to
    held_out: int  # pairs of states in the held-out rollouts
    by_rank: list[RankRow]


@dataclass(frozen=True)
class _Readers:
    """Both frozen models, and the layers whose states are paired."""

    config: TrainConfig
    student: LanguageModel
    teacher: ExternalTeacher
    layers: tuple[int, ...]

    @torch.no_grad()
    def pairs(self, samples: Sequence[Sample]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields paired states [K, n, d] and [K, n, d'] at the positions that training compares, by micro-batch."""
        count, where = self.config.oprd.selection
        for first in range(0, len(samples), self.config.micro_batch_size):
            part = samples[first : first + self.config.micro_batch_size]
            batch = collate(part, count, self.student.description.pad_id, self.student.device, where)
            student_pass = run_pass(self.student, batch.student, batch, self.layers)
            teacher_pass = self.teacher.run_pass(self.student, batch, self.layers)
            student, teacher = states_with_final_norm(student_pass, teacher_pass)
            yield student[:, batch.valid], teacher[:, batch.valid]


def fit_bridge(
    config: TrainConfig, rank: int | None, rollouts: int, note: Callable[[str], None]
) -> tuple[Bridge, BridgeReport]:
    """Fits the bridge from config.model to config.teacher.model.

    Args:
        rank: of the projection; None is the paper's, which depends on whether the models share a tokenizer.
        rollouts: the number of rollouts to draw.
        note: called with a sentence on each stage.

    Raises:
        UserError: models or data that cannot be used, or a rank above the narrower model's hidden size.
    """
    student = load_model(config)
    teacher = load_external(config, student.description)
    narrow = min(student.head.shape[1], width_of(teacher.description.config))
    rank = rank or (RANK_SAME_TOKENIZER if teacher.alignment is None else RANK_OTHER_TOKENIZER)
    if rank > narrow:
        raise UserError(f"rank: {rank} is beyond the narrower model's width of {narrow}")
    check_layers("oprd.layers", config.oprd.layers or "last", len(student.blocks))
    layers = pick_layers(config.oprd.layers or "last", len(student.blocks))
    prompts = build_prompts(student.description.tokenizer, config.prompt, vocabulary=student.description.vocabulary)
    curriculum = _curriculum(config, prompts, rollouts, student)
    note(f"drawing {rollouts} rollouts of {config.model}")
    samples = _draw(config, curriculum, prompts, student, teacher, rollouts)
    held_out = samples[::_HELD_OUT]
    fitted = [sample for index, sample in enumerate(samples) if index % _HELD_OUT]
    readers = _Readers(config, student, teacher, layers)
    note(f"reading them with {config.model} and {config.teacher.model}")
    bridge, shares, pairs = _fit(readers.pairs(fitted), layers, narrow)
    by_rank, held_out_pairs = _similarities(
        bridge, readers.pairs(held_out), shares, _reported_ranks(narrow, rank), config.seed
    )
    report = BridgeReport(
        rank=rank,
        tokenizer="same" if teacher.alignment is None else "other",
        layers=layers,
        teacher_layers=pair_layers(layers, len(student.blocks), depth_of(teacher.description.config)),
        pairs=pairs,
        held_out=held_out_pairs,
        by_rank=by_rank,
    )
    provenance = _provenance(config, curriculum, rollouts, report, student)
    return Bridge(layers, _rounded(bridge.student, rank), _rounded(bridge.teacher, rank), provenance), report


def _curriculum(config: TrainConfig, prompts: Prompts, rollouts: int, student: LanguageModel) -> Curriculum:
    """The problems in the order of training. Raises UserError for a visited problem that is too long."""
    steps = math.ceil(rollouts / config.batch_size)
    reading = SequenceLengths(prompts, privileged=False, rollout=config.rollout.max_new_tokens)
    return build_curriculum(config.model_copy(update={"steps": steps}), reading, student.description.context)[0]


def _draw(
    config: TrainConfig,
    curriculum: Curriculum,
    prompts: Prompts,
    student: LanguageModel,
    teacher: ExternalTeacher,
    count: int,
) -> list[Sample]:
    """Draws rollouts of the student, prepared for both models."""
    steps = math.ceil(count / config.batch_size)
    problems = [problem for step in range(1, steps + 1) for problem in curriculum.batch(step)][:count]
    requests = [
        Request(tuple(prompts.student(problem.problem)), derive_seed(config.seed, "bridge", index))
        for index, problem in enumerate(problems)
    ]
    drawn = dict(TransformersEngine(student).sample(requests, config.rollout.sampling))
    return [
        teacher.prepare(Sample(request.prompt_ids, request.prompt_ids, drawn[index].ids), problem)
        for index, (request, problem) in enumerate(zip(requests, problems, strict=True))
    ]


def _fit(pairs: Iterator[tuple[Tensor, Tensor]], layers: tuple[int, ...], rank: int) -> tuple[Bridge, Tensor, int]:
    """The bridge of full rank, each component's share of the variance [rank], and the number of pairs of states."""
    moments = None
    for student, teacher in pairs:
        part = PairMoments.of(student, teacher)
        moments = part if moments is None else moments + part
    if moments is None or moments.count == 0:
        raise UserError(
            "data: there are no positions to pair: the student's rollouts are empty, or no token of it ends at "
            "the same character as one of the teacher"
        )
    directions, shares = principal_directions(moments)
    target = Projector(directions.weight[:, :rank], directions.mean)
    return Bridge(layers, fit_student(moments, target), target, {}), shares.mean(0)[:rank], moments.count


def _similarities(
    bridge: Bridge, pairs: Iterator[tuple[Tensor, Tensor]], shares: Tensor, ranks: Sequence[int], seed: int
) -> tuple[list[RankRow], int]:
    """The cosines of held-out pairs at each of `ranks`, and the number of pairs."""
    weight = bridge.student.weight
    generator = torch.Generator().manual_seed(derive_seed(seed, "bridge", "before"))
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
    before = Projector(noise, bridge.student.mean)
    totals, count = torch.zeros(2, weight.shape[1], dtype=weight.dtype, device=weight.device), 0
    for student, teacher in pairs:
        target = bridge.teacher(teacher)
        for index, projector in enumerate((before, bridge.student)):
            totals[index] += cosines_by_rank(projector(student), target).mean(0).sum(0)
        count += student.shape[1]
    means, explained = (totals / max(count, 1)).tolist(), shares.cumsum(0).tolist()
    return [RankRow(r, explained[r - 1], means[0][r - 1], means[1][r - 1]) for r in ranks], count


def _reported_ranks(narrow: int, rank: int) -> list[int]:
    """The powers of two up to the narrower model's hidden size, that size, and the rank of the bridge."""
    return sorted({2**power for power in range(narrow.bit_length())} | {narrow, rank})


def _rounded(projector: Projector, rank: int) -> Projector:
    return Projector(projector.weight[:, :rank].float().cpu(), projector.mean.float().cpu())


def _provenance(
    config: TrainConfig, curriculum: Curriculum, rollouts: int, report: BridgeReport, student: LanguageModel
) -> dict[str, Any]:
    teacher = str(config.teacher.model)
    return {
        "created": now(),
        "student": model_identity(config.model) | {"name": stable_name(config.model)},
        "teacher": model_identity(teacher) | {"name": stable_name(teacher)},
        "data": {"name": config.data, "sha256": curriculum.sha256},
        "rollouts": rollouts,
        "rollout": config.rollout.model_dump(),
        "positions": config.oprd.positions,
        "seed": config.seed,
        "fit": asdict(report),
        **environment(student.device),
    }
