"""Saves checkpoints and hidden flows during training, and resumes a run from them."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.description import stable_name
from phfcli.core.models.passes import Sample
from phfcli.core.models.sharding import total
from phfcli.core.runs.checkpoints import (
    MismatchError,
    checkpoints_of,
    give_checkpoint_parts,
    load_ahead,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    set_aside,
)
from phfcli.core.runs.flows import record_flow, save_flow
from phfcli.core.runs.folder import continue_run, step_name
from phfcli.core.runs.model_card import model_card
from phfcli.core.runs.readings import followed, read_rollouts, save_readings
from phfcli.core.storage.files import write_text
from phfcli.core.storage.schemas import AlarmForm, StepForm, read_forms
from phfcli.core.training.alarms import FILE as ALARMS
from phfcli.core.training.alarms import resumed_alarms
from phfcli.core.training.learning_rate import restore_schedule
from phfcli.core.training.parts import TrainingParts


def save(trainer: TrainingParts) -> None:
    """A checkpoint of the completed step, and the hidden flow of some of its rollouts under its weights."""
    flow, needs, ranks = trainer.config.flow, trainer.objective.needs, trainer.ranks
    samples = ranks.gather(trainer.samples[: flow.saved_samples])
    if flow.saved_samples and needs.teacher and needs.privileged:
        _save_flow(trainer, samples[: flow.saved_samples])
    ahead = trainer.ahead.state(ranks)
    if ranks.main:
        _write_checkpoint(trainer, ahead)
    elif trainer.model.fully_sharded:
        give_checkpoint_parts(trainer.model, trainer.teacher, trainer.optimizer)
    trainer.saved = trainer.step


def _save_flow(trainer: TrainingParts, fresh: Sequence[Sample]) -> None:
    """Reads some rollouts, and those that the run follows, under the present weights; the main rank saves both.

    With sharded blocks the others read the same: no pass is made without them.
    """
    config, main = trainer.config, trainer.ranks.main
    samples = trainer.ranks.gather([followed(trainer.folder, trainer.step, fresh)] if main else [])[0]
    if not (main or trainer.model.sharded):
        return
    flow = record_flow(trainer.model, trainer.teacher, fresh, config.flow.positions)
    temperature = config.divergence.temperature or config.rollout.temperature
    read = read_rollouts(trainer.model, trainer.teacher, samples, config.divergence, temperature, config.flow.positions)
    if main:
        save_flow(trainer.folder, trainer.step, flow)
        save_readings(trainer.folder, trainer.step, read)


def resume(trainer: TrainingParts, warn: Callable[[str], None]) -> None:
    """Goes back to the newest checkpoint that can be read; with none, the run starts over."""
    with trainer.ranks.main_first():
        skipped = _load_newest(trainer)
        if trainer.ranks.main:
            for reason in skipped:
                warn(f"{reason}; going back to {f'step {trainer.step}' if trainer.step else 'the start'}")
            continue_run(trainer.folder, trainer.step)
        metrics = read_forms(trainer.folder / "metrics.jsonl", StepForm)
        trainer.alarms = resumed_alarms(metrics, read_forms(trainer.folder / ALARMS, AlarmForm))
        if trainer.validation is not None:
            trainer.validation.read(trainer.step)
            if trainer.ranks.main:
                trainer.validation.point()


def check_alike(trainer: TrainingParts) -> None:
    """Raises FaultError where ranks do not start from the same weights at the same step."""
    weights = total([p.detach().double().square().sum() for p in trainer.model.trainable().values()])
    if len(set(trainer.ranks.gather([(trainer.step, weights)]))) > 1:
        raise FaultError(
            "the processes do not hold the same weights: the run's folder must be one that all machines share"
        )


def _write_checkpoint(trainer: TrainingParts, ahead: Mapping[str, Tensor]) -> None:
    """Writes the checkpoint, and only then removes older ones and moves the link to the best one."""
    model, config = trainer.model, trainer.config
    state = {"step": trainer.step, "model": stable_name(config.model), "schedule": trainer.schedule.state_dict()}
    folder = trainer.folder / "checkpoints" / step_name(trainer.step)
    save_checkpoint(folder, model, trainer.teacher, trainer.optimizer, state, ahead)
    write_text(folder / "README.md", model_card(config, trainer.step))
    best = trainer.validation and trainer.validation.best
    if trainer.validation and best and best["step"] == trainer.step:
        trainer.validation.point()
    prune_checkpoints(trainer.folder, config.keep, best["step"] if best else None)


def _load_newest(trainer: TrainingParts) -> list[str]:
    """Loads the newest readable checkpoint; returns which ones it skipped, and why."""
    skipped = []
    for step, folder in reversed(checkpoints_of(trainer.folder)):
        try:
            state = load_checkpoint(folder, trainer.model, trainer.teacher, trainer.optimizer)
        except MismatchError:
            raise  # it is whole: to go back beyond it would lose what is good
        except UserError as error:
            skipped.append(f"checkpoint skipped: {error}; set aside as {set_aside(folder).name}")
            continue
        trainer.ahead.restore(load_ahead(folder, trainer.model))
        restore_schedule(trainer.schedule, trainer.optimizer, state["schedule"])
        trainer.step = step
        break
    return skipped
