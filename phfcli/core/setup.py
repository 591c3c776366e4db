"""From settings to a trainer that is ready for its first step; everything that can be refused is refused here."""

from pathlib import Path

import torch
from transformers import get_scheduler

from phfcli.core.bridges import Bridge
from phfcli.core.config import TrainConfig
from phfcli.core.data import Curriculum, Reading, build_curriculum
from phfcli.core.errors import UserError
from phfcli.core.external import ExternalTeacher, load_external
from phfcli.core.layers import check_layers
from phfcli.core.loop import Trainer
from phfcli.core.models import LanguageModel, add_lora, load_model
from phfcli.core.objectives import Needs, build_objective
from phfcli.core.prompts import build_prompts
from phfcli.core.rollouts import TrainingEngine, TransformersEngine, training_engine
from phfcli.core.runs import model_identity, start_run
from phfcli.core.seeds import derive_seed
from phfcli.core.teachers import Teacher, build_teacher


def build_trainer(config: TrainConfig, folder: Path, fresh: bool) -> Trainer:
    """Loads the model and the problems, and puts the parts together; a fresh run is recorded in its folder.

    Raises:
        UserError: for a model, data or layers that cannot be used. Nothing has been written then.
    """
    base = load_model(config)
    prompts = build_prompts(base.card.tokenizer, config.prompt)
    objective = build_objective(config)
    needs = objective.needs
    reading = Reading(prompts, needs.privileged, None if needs.offline else config.rollout.max_new_tokens)
    external = load_external(config, base.card) if needs.teacher and config.teacher.kind == "external" else None
    contexts = [base.card.context, needs.max_tokens, external.context if external else None]
    limit = min(context for context in contexts if context is not None)
    curriculum, skipped = build_curriculum(config, reading, limit)
    for setting, layers in (("flow.layers", config.flow.layers), ("oprd.layers", config.oprd.layers)):
        if layers == needs.layers:  # of the two the one that the objective reads
            check_layers(setting, layers, len(base.blocks))
    if external is not None:
        _check_external(config, needs, base, external)
    model = add_lora(base, config.lora, derive_seed(config.seed, "lora"))
    if config.gradient_checkpointing:
        model.causal.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer, schedule = build_optimizer(config, model, curriculum)
    engine: TrainingEngine = TransformersEngine(model)  # which holds nothing of its own, and stays idle offline
    if not needs.offline:
        engine = training_engine(config, model, (prompts.student(p.problem) for p in curriculum.visited(config.steps)))
    teacher: Teacher = external or build_teacher(model.trainable() if needs.teacher else {}, config.teacher)
    if fresh:
        start_run(folder, config, model, curriculum, skipped)
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
    )


def build_optimizer(
    config: TrainConfig, model: LanguageModel, curriculum: Curriculum
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a cosine whose horizon is its own setting, apart from the last step, which must not lie beyond it."""
    optim = config.optim
    optimizer = torch.optim.AdamW(
        model.trainable().values(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay
    )
    horizon = optim.horizon_steps or round(optim.horizon_epochs * curriculum.steps_per_epoch)
    if horizon < config.steps:
        raise UserError(
            f"steps: {config.steps} is beyond the schedule's horizon of {horizon}; raise optim.horizon_steps"
        )
    return optimizer, get_scheduler("cosine", optimizer, optim.warmup_steps, horizon)


def _check_external(config: TrainConfig, needs: Needs, student: LanguageModel, teacher: ExternalTeacher) -> None:
    """Raises UserError for a teacher whose outputs or states cannot be compared with the student's."""
    name, fix = f"teacher.model: {config.teacher.model}", "fit one with `phf bridge fit`"
    if needs.bridge is not None:
        _check_bridge(config, needs.bridge)
    elif teacher.retelling is not None:
        raise UserError(
            f"{name} has another tokenizer than {config.model}, so without a bridge neither next tokens nor states can "
            f"be compared; {fix} and train with --objective oprd --set oprd.bridge=FILE"
        )
    elif needs.layers != () and student.head.shape[1] != teacher.model.head.shape[1]:
        widths = f"{teacher.model.head.shape[1]}, and those of {config.model} of {student.head.shape[1]}"
        raise UserError(f"{name} has states of width {widths}; they need a bridge: {fix}, then --set oprd.bridge=FILE")
    if needs.outputs and teacher.retelling is not None:
        raise UserError(f"{name} has another tokenizer, so its next tokens cannot be compared: --set oprd.mu=null")


def _check_bridge(config: TrainConfig, bridge: Bridge) -> None:
    """A bridge stands between the very models that it was fitted to."""
    for side, setting, name in (("student", "model", config.model), ("teacher", "teacher.model", config.teacher.model)):
        fitted, given = bridge.about[side], model_identity(name or "")
        for key in ("sha256", "revision"):
            if key in fitted and key in given and fitted[key] != given[key]:
                raise UserError(
                    f"oprd.bridge: {bridge.path} was fitted to the {side} {fitted['name']} with {key} {fitted[key]}, "
                    f"and {setting} {name} has {given[key]}; fit another one with `phf bridge fit`"
                )
