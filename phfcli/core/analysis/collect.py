"""Computes the hidden flow of a checkpoint, an adapter or a model for which training saved none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.divergence import logits_entropy
from phfcli.core.losses.fused_divergence import chunk_rows
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.trial import check_computation
from phfcli.core.objectives.teachers import AveragedTeacher, averages_of
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.contexts import Context
from phfcli.core.runs.flows import Flow, join_flows, open_flow, record_flow
from phfcli.core.runs.folder import check_sums, saved_config, step_name
from phfcli.core.runs.problems import Curriculum, load_problems
from phfcli.core.runs.targets import Target, find_target
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import Source, option_source, resolve_train
from phfcli.core.storage.tensors import read_tensors
from phfcli.core.types import Request


@dataclass(frozen=True)
class Collection:
    """A loaded model with its teacher, and the rollouts that both will read."""

    step: int | None
    config: TrainConfig
    model: LanguageModel
    teacher: AveragedTeacher
    samples: Sequence[Sample]
    teacher_kind: str  # a phrase that says which teacher it is
    origin: str  # a phrase that says where the rollouts come from

    def flow(self) -> Flow:
        """Computes the flow of the rollouts by micro-batch; all hidden states are kept in CPU memory."""
        size, config = self.config.micro_batch_size, self.config
        parts = [self.samples[start : start + size] for start in range(0, len(self.samples), size)]
        flow = join_flows([record_flow(self.model, self.teacher, part, config.flow.positions) for part in parts])
        entropy = lens_entropy(self.model, flow.student[:, flow.valid], config.rollout.temperature)
        return replace(flow, step=self.step, lens_entropy=entropy)


def build_collection(
    target: str, typed: list[Source], base: str | None, rollouts: Path | None, count: int
) -> Collection:
    """Loads a model, its teacher and the rollouts that both will read.

    The rollouts are those of the flow file `rollouts`. Without such a file and without the setting `data`, they are
    those of the flow that the run saved with this checkpoint. Otherwise the target draws `count` new ones, on the
    problems of its run or of `data`.

    Raises:
        UserError: a target, settings, data or rollouts that cannot be used.
    """
    resolved = find_target(target, base)
    config = _config(resolved, typed)
    if rollouts is None and not any("data" in source.tree for source in typed):
        rollouts = _saved_flow(resolved)
    model = load_model(config, resolved.adapter)
    check_computation(model)
    teacher, teacher_kind = _teacher(resolved, model)
    if rollouts is not None:
        samples, origin = _saved_rollouts(rollouts), f"those of {rollouts}"
    else:
        samples = _new_rollouts(config, model, count)
        origin = f"{len(samples)} new ones on {config.data}"
    return Collection(resolved.step, config, model, teacher, samples, teacher_kind, origin)


def _config(target: Target, typed: list[Source]) -> TrainConfig:
    run_settings = [saved_config(target.run)] if target.run else []
    return resolve_train([*run_settings, option_source("target", "model", target.model), *typed])


def _saved_flow(target: Target) -> Path | None:
    if target.run is None or target.step is None:
        return None
    path = target.run / "flows" / f"{step_name(target.step)}.safetensors"
    return path if path.is_file() and open_flow(path).rollouts else None


def _saved_rollouts(path: Path) -> list[Sample]:
    rollouts = open_flow(path).rollouts
    if not rollouts:
        raise UserError(f"{path}: a flow file of version 1 holds no rollouts; set data to draw new ones")
    return [Sample(r.student_prompt, r.teacher_prompt, r.completion) for r in rollouts]


def _new_rollouts(config: TrainConfig, model: LanguageModel, count: int) -> list[Sample]:
    """New rollouts of the first problems in the seed's order, one each, with the sampling settings of training."""
    prompts = build_prompts(model.description.tokenizer, config.prompt, vocabulary=model.description.vocabulary)
    problems = load_problems(config)
    chosen = Curriculum(problems, min(count, len(problems)), config.seed).batch(1)
    context = Context(config.teacher.context, problems, config.seed)
    requests = [
        Request(tuple(prompts.student(p.problem)), derive_seed(config.seed, "collect", index))
        for index, p in enumerate(chosen)
    ]
    by_index = dict(TransformersEngine(model).sample(requests, config.rollout.sampling))
    return [
        Sample(request.prompt_ids, context.prompt_ids(prompts, p), by_index[index].ids)
        for index, (p, request) in enumerate(zip(chosen, requests, strict=True))
    ]


def _teacher(target: Target, model: LanguageModel) -> tuple[AveragedTeacher, str]:
    """The averaged teacher that was saved with a checkpoint; without one the model itself."""
    folder = target.adapter or Path(target.model) / "state"  # the latter for a checkpoint of all weights
    file = folder / "teacher.safetensors"
    check_sums(target.adapter or Path(target.model))
    averages = averages_of(read_tensors(file)) if file.is_file() else {}
    if not averages:
        return AveragedTeacher({}, decay=0.0), "the model itself"
    parameters = dict(model.network.named_parameters())
    if missing := averages.keys() - parameters.keys():
        raise UserError(f"{file}: not a teacher of this model, which has no {min(missing)}")
    teacher = AveragedTeacher({name: parameters[name] for name in averages}, decay=1.0)
    with torch.no_grad():
        teacher.load_state_dict(averages)
    return teacher, "its running average at this checkpoint"


@torch.no_grad()
def lens_entropy(model: LanguageModel, states: Tensor, temperature: float) -> Tensor:
    """The logit lens: the mean entropy of the next token when final norm and head read each block's output.

    Args:
        states: [L, n, d], outputs of the blocks before the final norm.
        temperature: divides the logits.

    Returns:
        [L] in float64, nats a token. The value of the last block is the entropy of the model's prediction.
    """
    head = model.output_head
    rows = chunk_rows(states[0], len(head), None)
    sums = torch.zeros(len(states), dtype=torch.float64)
    for chunk in states.split(rows, dim=1):
        for layer, state in enumerate(chunk.to(model.device)):
            with model.computing():
                normed: Tensor = model.final_norm(state)
            logits = head.logits(normed.to(model.compute or state.dtype))
            sums[layer] += logits_entropy(logits, temperature).double().sum().cpu()
    return sums / states.shape[1]
