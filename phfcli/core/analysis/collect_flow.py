"""Computes a hidden flow from a checkpoint, an adapter or a model for which none was saved."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.grading import build_grader
from phfcli.core.models.architecture.self_check import check_computation
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Sample, collate
from phfcli.core.models.prompts import build_prompts
from phfcli.core.names import Where
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.teachers.ema import AveragedTeacher, averages_of
from phfcli.core.rollouts.transformers_engine import TransformersEngine
from phfcli.core.runs.checkpoint_choice import Target, find_target
from phfcli.core.runs.contexts import Context
from phfcli.core.runs.flow_files import Flow, RolloutStates, open_flow, rollout_states_of, write_flow
from phfcli.core.runs.flow_recorder import record_flow
from phfcli.core.runs.layout import step_name
from phfcli.core.runs.run_folder import saved_config
from phfcli.core.runs.training_data import Curriculum, load_problems
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.storage.tensors import read_tensors
from phfcli.core.training.samples.rewards import rewards_of
from phfcli.core.types import Request, Sampling


@dataclass(frozen=True)
class Collection:
    """Rollouts that a model reads as student and as teacher, a micro-batch at a time."""

    path: Path
    step: int | None
    config: TrainConfig
    model: LanguageModel
    teacher: AveragedTeacher
    samples: Sequence[Sample]
    teacher_kind: str  # in words
    origin: str  # of the rollouts, in words
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        return list(range(1, len(self.model.blocks) + 1))

    def rollout_states(self) -> Iterator[RolloutStates]:
        """Yields the states of each rollout; only one micro-batch is in memory at a time."""
        size = self.config.micro_batch_size
        for start in range(0, len(self.samples), size):
            flow = self.record(self.samples[start : start + size])
            self.texts.update(flow.texts)
            yield from rollout_states_of(flow)

    def batches(self, positions: int | None = None, where: Where = "spread") -> Iterator[Batch]:
        """The rollouts as micro-batches, with at most so many selected positions; by default as many as a flow has."""
        size, model = self.config.micro_batch_size, self.model
        for start in range(0, len(self.samples), size):
            part = self.samples[start : start + size]
            count = positions or self.config.flow.positions
            yield collate(part, count, model.description.pad_id, model.device, where)

    def save(self, path: Path) -> None:
        """Writes the flow of all samples to a file; all of it has to fit into memory."""
        write_flow(path, self.record(self.samples), self.config.flow.saved_dtype)

    def record(self, samples: Sequence[Sample]) -> Flow:
        """The flow of some samples, on the CPU."""
        return record_flow(self.model, self.teacher, samples, self.config.flow.positions)


def build_collection(
    target: str, typed: list[Source], base: str | None, rollouts: Path | None, count: int, graded: bool = False
) -> Collection:
    """Loads a model and the rollouts that it will read.

    The rollouts are those of the flow file `rollouts`; or else, without --data, of the flow that the run saved with
    this checkpoint; or else `count` new ones of the target itself, on its run's problems or on `data`. `graded`: for an
    objective that needs rewards these are drawn in its groups, and graded.

    Raises:
        UserError: for anything of it that cannot be used.
    """
    found = find_target(target, base)
    config = _config(found, typed)
    if rollouts is None and not any("data" in source.tree for source in typed):
        rollouts = _saved_flow(found)
    model = load_model(config, found.adapter)
    check_computation(model)
    teacher, teacher_kind = _teacher(found, model)
    if rollouts is not None:
        samples, origin = _saved_rollouts(rollouts), f"those of {rollouts}"
    else:
        samples = _new_rollouts(config, model, count, graded)
        origin = f"{len(samples)} new ones on {config.data}"
    return Collection(Path(target), found.step, config, model, teacher, samples, teacher_kind, origin)


def _config(target: Target, typed: list[Source]) -> TrainConfig:
    own = [saved_config(target.run)] if target.run else []
    return resolve_train([*own, option_source("target", "model", target.model), *typed])


def _saved_flow(target: Target) -> Path | None:
    if target.run is None or target.step is None:
        return None
    path = target.run / "flows" / f"{step_name(target.step)}.safetensors"
    return path if path.is_file() and open_flow(path).rollouts else None


def _saved_rollouts(path: Path) -> list[Sample]:
    rollouts = open_flow(path).rollouts
    if not rollouts:
        raise UserError(f"{path}: a flow file of version 1 does not hold its rollouts; draw new ones with --data")
    return [Sample(r.student_prompt, r.teacher_prompt, r.completion) for r in rollouts]


def _new_rollouts(config: TrainConfig, model: LanguageModel, count: int, graded: bool) -> list[Sample]:
    """New rollouts on the first problems in the seed's order, sampled as training samples them.

    One for each problem; or, to be graded for an objective with rewards, as many as its groups have.
    """
    needs = build_objective(config).needs if graded else Needs()
    size = needs.group_size if needs.reward else 1
    prompts = build_prompts(model.description.tokenizer, config.prompt)
    problems = load_problems(config)
    curriculum = Curriculum(problems, min(-(-count // size), len(problems)), config.seed)
    chosen = [problem for problem in curriculum.batch(1) for _ in range(size)]
    context = Context(config.teacher.context, problems, config.seed)
    requests = [
        Request(tuple(prompts.student(p.problem)), derive_seed(config.seed, "collect", index))
        for index, p in enumerate(chosen)
    ]
    drawn = config.rollout
    sampling = Sampling(drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens)
    by_index = dict(TransformersEngine(model).sample(requests, sampling, logprobs=graded))
    completions = [by_index[index] for index in range(len(requests))]
    samples = [
        Sample(request.prompt_ids, prompts.teacher(p.problem, context.text(p)), own.ids, own.logprobs)
        for p, request, own in zip(chosen, requests, completions, strict=True)
    ]
    if not needs.reward:
        return samples
    with build_grader(config.grader) as grader:
        rewards = rewards_of(grader, model.description, chosen, completions)
    groups = [rewards[index - index % size :][:size] for index in range(len(samples))]
    return [replace(s, reward=r, group=g) for s, r, g in zip(samples, rewards, groups, strict=True)]


def _teacher(target: Target, model: LanguageModel) -> tuple[AveragedTeacher, str]:
    """The teacher of the outputs saved with a checkpoint, or the model itself where none was saved."""
    folder = target.adapter or Path(target.model) / "state"  # of a checkpoint of all weights
    file = folder / "teacher.safetensors"
    averages = averages_of(read_tensors(file)) if file.is_file() else {}
    if not averages:
        return AveragedTeacher({}, decay=0.0), "the model itself"
    own = dict(model.network.named_parameters())
    if missing := averages.keys() - own.keys():
        raise UserError(f"{file}: not a teacher of this model, which has no {min(missing)}")
    teacher = AveragedTeacher({name: own[name] for name in averages}, decay=1.0)
    with torch.no_grad():
        teacher.load_state_dict(averages)
    return teacher, "its running average at this checkpoint"
