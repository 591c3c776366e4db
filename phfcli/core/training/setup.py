"""Builds a trainer from the settings; everything that can be refused is refused here."""

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from transformers import PreTrainedConfig, PreTrainedModel

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.extensions import conforming, find
from phfcli.core.grading import build_grader
from phfcli.core.models.architecture import check_layers
from phfcli.core.models.description import depth_of, load_config, rotation_switch, width_of
from phfcli.core.models.device import pick_device, return_large_blocks
from phfcli.core.models.kernels import checkpoint_gradients
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model, load_whole
from phfcli.core.models.lora import add_lora, check_round_trip
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.models.sharding import shard
from phfcli.core.models.trial import check_computation, check_logit_lens
from phfcli.core.models.weights import check_quantization, quantization_method
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.other_teachers import Bridge, load_external
from phfcli.core.objectives.teachers import Teacher, build_base, build_own_teacher
from phfcli.core.rollouts.build import training_engine
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.runs.folder import model_identity, start_run
from phfcli.core.runs.problems import Curriculum, curriculum_warnings, fitting_curriculum, rotation_warnings
from phfcli.core.seeds import derive_seed
from phfcli.core.settings import not_recommended
from phfcli.core.training.optimizer import build_optimizer, build_schedule
from phfcli.core.training.ranks import ALONE, Ranks
from phfcli.core.training.rollouts import RolloutSource
from phfcli.core.training.saving import Saver
from phfcli.core.training.trackers import check_trackers
from phfcli.core.training.trainer import Trainer
from phfcli.core.training.validation import Validation, build_validation


def check_shares(config: TrainConfig, group_size: int, processes: int) -> None:
    """Raises UserError where a step cannot be shared out: in equal shares, if ranks need each other in every pass."""
    completions, sharded = config.batch_size * group_size, config.sharding == "fsdp"
    if completions < processes:
        raise UserError(
            f"batch_size: a step's {completions} completions are too few for {processes} processes to share"
        )
    if sharded and processes == 1:
        raise UserError("sharding: there is one process only; start several, with phf train or torchrun")
    if sharded and config.tuning == "full" and config.rollout.engine not in ("auto", "transformers"):
        raise UserError(
            "rollout.engine: with sharding=fsdp and tuning=full no process has whole weights to hand over; "
            "use transformers"
        )
    if sharded and 0 < config.rollout.references < 1:
        raise UserError(
            "sharding: with fsdp every process draws as often as the others, so rollout.references must be 0 or 1"
        )
    if sharded and completions % processes:
        raise UserError(
            f"batch_size: with sharding=fsdp a step's {completions} completions must be a multiple of "
            f"{processes} processes"
        )


def check_base(config: TrainConfig, arch: PreTrainedConfig) -> None:
    """Raises UserError for a quantised base where all weights train, are sharded, or another engine draws."""
    kind = quantization_method(arch) or config.quantization
    check_quantization(
        kind, config.tuning, config.sharding, "auto" if quantization_method(arch) else config.rollout.engine
    )


def check_states(config: TrainConfig, needs: Needs, causal: PreTrainedModel) -> None:
    """Raises UserError for layers that the model does not have, or whose states the objective cannot use."""
    for setting, layers in (("flow.layers", config.flow.layers), ("oprd.layers", config.oprd.layers)):
        if layers == needs.layers:  # of the two the one that the objective reads
            check_layers(setting, layers, depth_of(causal.config))
    if config.teacher.states != "same" and not (needs.teacher and needs.outputs and needs.layers != ()):
        raise UserError(
            f"teacher.states: {config.objective} has no two targets, of outputs and of hidden states, to take apart"
        )
    if needs.lens is not None:
        check_logit_lens(causal, needs.lens)


def check_external(
    config: TrainConfig, needs: Needs, student: PreTrainedConfig, teacher: PreTrainedConfig, same_tokens: bool
) -> None:
    """Raises UserError for a teacher whose outputs or states cannot be compared with the student's."""
    name, fix = f"teacher.model: {config.teacher.model}", "fit one with `phf bridge fit`"
    if needs.bridge is not None:
        _check_bridge(config, needs.bridge)
    elif not same_tokens:
        raise UserError(
            f"{name} has another tokenizer than {config.model}, so without a bridge neither next tokens nor states can "
            f"be compared; {fix} and train with objective=oprd and oprd.bridge=FILE"
        )
    elif needs.layers != () and width_of(student) != width_of(teacher):
        widths = f"{width_of(teacher)}, and those of {config.model} of {width_of(student)}"
        raise UserError(
            f"{name} has states of width {widths}; they need a bridge: {fix}, then set oprd.bridge to its file"
        )
    if needs.outputs and not same_tokens:
        raise UserError(f"{name} has another tokenizer, so next tokens cannot be compared; set oprd.mu to null")


def prompt_warnings(config: TrainConfig, prompts: Prompts) -> list[str]:
    """Two readers that start in different modes of thinking, which one context is there for."""
    return [] if config.teacher.context == "reference-free" else prompts.warnings()


def settings_warnings(config: TrainConfig) -> list[str]:
    """What is allowed and does harm, a sentence each."""
    divergence, found = config.divergence, []
    if config.offload.activations and pick_device(config.device).type == "cpu":
        found.append("offload.activations: there is no GPU here whose memory it could spare, so it changes nothing")
    if divergence.kind == "jsd" or divergence.clip is None or divergence.clip_mode != "element":
        return found
    return [
        *found,
        f"divergence.clip: on the entries of {divergence.kind} it drives those that it holds away from the teacher; "
        "set it to null, or divergence.clip_mode to token",
    ]


def _check_bridge(config: TrainConfig, bridge: Bridge) -> None:
    """Raises UserError for a bridge that was fitted to other models."""
    for side, setting, name in (("student", "model", config.model), ("teacher", "teacher.model", config.teacher.model)):
        fitted, given = bridge.about[side], model_identity(name or "")
        for key in ("sha256", "revision"):
            if key in fitted and key in given and fitted[key] != given[key]:
                raise UserError(
                    f"oprd.bridge: {bridge.path} was fitted to the {side} {fitted['name']} with {key} {fitted[key]}, "
                    f"and {setting} {name} has {given[key]}; fit another one with `phf bridge fit`"
                )


def build_trainer(
    config: TrainConfig,
    folder: Path,
    fresh: bool,
    ranks: Ranks = ALONE,
    today: datetime.date | None = None,
    origins: Mapping[str, str] = MappingProxyType({}),
) -> Trainer:
    """Loads the model and the problems, and puts the parts together; a fresh run is recorded in its folder.

    No rank waits for another here.

    Args:
        today: the day for a template that reads the clock, the same on all ranks.
        origins: where each setting that is not a default comes from, for the record.

    Raises:
        UserError: for a model, data or layers that cannot be used. Nothing has been written then.
    """
    check_base(config, load_config(config.model))
    model = load_model(config) if config.tuning == "lora" else load_whole(config)
    check_computation(model)
    read = model.description
    prompts = build_prompts(read.tokenizer, config.prompt, read.eos_ids, read.vocabulary, today)
    check_trackers(config)
    objective = build_objective(config)
    needs = objective.needs
    check_shares(config, needs.group_size, ranks.size)
    check_states(config, needs, model.causal)
    from_outside = needs.teacher and config.teacher.kind == "external"
    external = load_external(config, model.description, today) if from_outside else None
    if day := prompts.day or (external and external.day):
        config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"day": day})})
    contexts = [model.description.context, *([external.context] if external else [])]
    curriculum, skipped = fitting_curriculum(config, needs, prompts, contexts)
    warnings = [*settings_warnings(config), *curriculum_warnings(config, needs, curriculum)]
    warnings += rotation_warnings(config, curriculum, rotation_switch(read.config))
    if external is not None:
        own, other = model.description.config, external.description.config
        check_external(config, needs, own, other, external.alignment is None)
    model = _with_what_trains(config, model, prompts.student(curriculum.problems[0].problem), ranks)
    optimizer = build_optimizer(config.optim, model.trainable().values())
    schedule = build_schedule(config, optimizer, curriculum.steps_per_epoch)
    grader = build_grader(config.grader)  # whose workers start when there is something to grade
    validation = build_validation(config, folder, model.description, prompts, grader)
    engine: TrainingEngine = TransformersEngine(model)  # which holds nothing of its own, and stays idle offline
    if not needs.offline:
        engine = _build_engine(config, model, prompts, curriculum, validation, warnings.append)
    teacher: Teacher = external or _own_teacher(config, model, needs)
    if fresh and ranks.main:
        bench = None if validation is None else validation.bench_sha256
        start_run(folder, config, model, curriculum, skipped, ranks.size, needs.divergence, bench, origins)
    return Trainer(
        config=config,
        folder=folder,
        model=model,
        objective=objective,
        teacher=teacher,
        base=build_base(model) if needs.base else None,
        rollouts=RolloutSource(config, needs, model, teacher, engine, prompts, curriculum, grader, ranks),
        optimizer=optimizer,
        schedule=schedule,
        saver=Saver(
            config, folder, ranks, model, teacher, optimizer, schedule, needs.teacher and needs.privileged, validation
        ),
        ranks=ranks,
        validation=validation,
        notes=[*([] if model.adapter is None else model.adapter.lines()), *prompts.notes(), *_advice(config, needs)],
        warnings=[*prompt_warnings(config, prompts), *warnings],
    )


def _advice(config: TrainConfig, needs: Needs) -> list[str]:
    """A line on what the recipe `recommended` has otherwise, where the loss has a published divergence with a clip."""
    if "divergence" not in needs.sections or config.divergence.clip is None:
        return []
    changes = ", ".join(f"{key}={json.dumps(value)}" for key, (value, _) in not_recommended(config).items())
    return [f"as published; the recipe recommended sets {changes} (docs/STUDY-METHODS.md says why)"]


def _own_teacher(config: TrainConfig, model: LanguageModel, needs: Needs) -> Teacher:
    """One that somebody has added, or the student itself under other weights."""
    added = find("teachers", config.teacher.kind)
    if added is None:
        return build_own_teacher(model.trainable() if needs.teacher else {}, config.teacher)
    teacher: Teacher = conforming("teachers", config.teacher.kind, added(config, model), Teacher)
    return teacher


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
    return model


def _build_engine(
    config: TrainConfig,
    model: LanguageModel,
    prompts: Prompts,
    curriculum: Curriculum,
    validation: Validation | None,
    warn: Callable[[str], None],
) -> TrainingEngine:
    """The engine of rollouts, which also draws for evaluations in between."""
    own: Iterable[Sequence[int]] = (prompts.student(p.problem) for p in curriculum.visited(config.steps))
    new_tokens = config.rollout.max_new_tokens
    if validation is not None:
        own = chain(own, (request.prompt_ids for request in validation.requests))
        new_tokens = max(new_tokens, validation.sampling.max_new_tokens)
    return training_engine(config, model, own, new_tokens, warn)
