"""Builds a trainer from the settings; everything that can be refused is refused here."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch

from phfcli.core.config import TrainConfig
from phfcli.core.extensions import find
from phfcli.core.grading import build_grader
from phfcli.core.models.adapters.lora import add_lora
from phfcli.core.models.adapters.round_trip import check_round_trip
from phfcli.core.models.allocator import return_large_blocks
from phfcli.core.models.architecture.self_check import check_computation
from phfcli.core.models.description import load_config
from phfcli.core.models.kernels.compiled_blocks import compile_blocks
from phfcli.core.models.kernels.mlp_tiles import checkpoint_gradients
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model, load_whole
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.models.sharding import shard
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.teachers.base import build_base
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.objectives.teachers.coupled import build_own_teacher
from phfcli.core.objectives.teachers.external import load_external
from phfcli.core.rollouts.build_engine import training_engine
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.rollouts.transformers_engine import TransformersEngine
from phfcli.core.runs.fitting_problems import curriculum_warnings, fitting_curriculum
from phfcli.core.runs.run_folder import start_run
from phfcli.core.runs.training_data import Curriculum
from phfcli.core.seeds import derive_seed
from phfcli.core.training.distributed import ALONE, Ranks
from phfcli.core.training.learning_rate import build_schedule
from phfcli.core.training.loop import Trainer
from phfcli.core.training.offload.moments import AwayAdamW
from phfcli.core.training.refusals import check_base, check_external, check_shares, check_states, settings_warnings
from phfcli.core.training.trackers import check_trackers
from phfcli.core.training.validation import Validation, build_validation


def build_trainer(config: TrainConfig, folder: Path, fresh: bool, ranks: Ranks = ALONE) -> Trainer:
    """Loads the model and the problems, and puts the parts together; a fresh run is recorded in its folder.

    No rank waits for another here.

    Raises:
        UserError: for a model, data or layers that cannot be used. Nothing has been written then.
    """
    check_base(config, load_config(config.model))
    model = load_model(config) if config.tuning == "lora" else load_whole(config)
    check_computation(model)
    prompts = build_prompts(model.description.tokenizer, config.prompt, model.description.eos_ids)
    check_trackers(config)
    objective = build_objective(config)
    needs = objective.needs
    check_shares(config, needs.group_size, ranks.size)
    check_states(config, needs, model.causal)
    from_outside = needs.teacher and config.teacher.kind == "external"
    external = load_external(config, model.description) if from_outside else None
    contexts = [model.description.context, *([external.context] if external else [])]
    curriculum, skipped = fitting_curriculum(config, needs, prompts, contexts)
    warnings = [*settings_warnings(config), *curriculum_warnings(config, needs, curriculum)]
    if external is not None:
        own, other = model.description.config, external.description.config
        check_external(config, needs, own, other, external.alignment is None)
    model = _with_what_trains(config, model, prompts.student(curriculum.problems[0].problem), ranks)
    optim = config.optim
    adamw = AwayAdamW if config.offload.optimizer else torch.optim.AdamW
    optimizer = adamw(model.trainable().values(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    schedule = build_schedule(config, optimizer, curriculum.steps_per_epoch)
    grader = build_grader(config.grader)  # whose workers start when there is something to grade
    validation = build_validation(config, folder, model.description, prompts, grader)
    engine: TrainingEngine = TransformersEngine(model)  # which holds nothing of its own, and stays idle offline
    if not needs.offline:
        engine = _build_engine(config, model, prompts, curriculum, validation)
    teacher: Teacher = external or _own_teacher(config, model, needs)
    if fresh and ranks.main:
        start_run(folder, config, model, curriculum, skipped, ranks.size)
    return Trainer(
        config=config,
        folder=folder,
        model=model,
        teacher=teacher,
        objective=objective,
        engine=engine,
        prompts=prompts,
        curriculum=curriculum,
        optimizer=optimizer,
        schedule=schedule,
        ranks=ranks,
        grader=grader,
        validation=validation,
        notes=[*([] if model.adapter is None else model.adapter.lines()), *_compiling(config), *prompts.notes()],
        warnings=[*prompts.warnings(), *warnings],
        base=build_base(model) if needs.base else None,
    )


def _own_teacher(config: TrainConfig, model: LanguageModel, needs: Needs) -> Teacher:
    """One that somebody has added, or the student itself under other weights."""
    added = find("teachers", config.teacher.kind)
    if added is None:
        return build_own_teacher(model.trainable() if needs.teacher else {}, config.teacher, config.offload.teacher)
    teacher: Teacher = added(config, model)
    return teacher


def _compiling(config: TrainConfig) -> list[str]:
    return ["the first passes compile the decoder blocks, which takes a minute or more"] if config.compile else []


def _with_what_trains(config: TrainConfig, model: LanguageModel, prompt: Sequence[int], ranks: Ranks) -> LanguageModel:
    """The model with its adapter, which has been tried on a prompt, and spread over the ranks if that is asked for."""
    if config.tuning == "lora":
        model = add_lora(model, config.lora, derive_seed(config.seed, "lora"))
        check_round_trip(model, prompt)
    if config.sharding == "fsdp":
        shard(model, ranks.size)
    if config.gradient_checkpointing:
        checkpoint_gradients(model.causal)
        return_large_blocks()
    if config.compile:
        compile_blocks(model)
    return model


def _build_engine(
    config: TrainConfig,
    model: LanguageModel,
    prompts: Prompts,
    curriculum: Curriculum,
    validation: Validation | None,
) -> TrainingEngine:
    """The engine of rollouts, which also draws for evaluations in between."""
    own: Iterable[Sequence[int]] = (prompts.student(p.problem) for p in curriculum.visited(config.steps))
    new_tokens = config.rollout.max_new_tokens
    if validation is not None:
        own = chain(own, (request.prompt_ids for request in validation.requests))
        new_tokens = max(new_tokens, validation.sampling.max_new_tokens)
    return training_engine(config, model, own, new_tokens)
