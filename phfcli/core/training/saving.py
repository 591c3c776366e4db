"""Saves checkpoints and hidden flows during training, and reads the newest checkpoint back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.description import stable_name
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample
from phfcli.core.objectives.teachers import Teacher
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
from phfcli.core.runs.folder import step_name
from phfcli.core.runs.model_card import model_card
from phfcli.core.runs.readings import followed, read_rollouts, save_readings
from phfcli.core.storage.seals import write_sealed
from phfcli.core.training.optimizer import restore_schedule
from phfcli.core.training.ranks import Ranks
from phfcli.core.training.rollouts import Ahead
from phfcli.core.training.validation import Validation


@dataclass
class Saver:
    """Writes and reads the checkpoints of a run: what trains, the teacher, and the state of both.

    No random state is saved: each random choice has a seed of its own (`seeds.py`), so a resumed run draws the same.
    """

    config: TrainConfig
    folder: Path
    ranks: Ranks
    model: LanguageModel
    teacher: Teacher
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    with_flow: bool  # the teacher reads more than the student, so there is a hidden flow to save
    validation: Validation | None

    def save(self, step: int, samples: Sequence[Sample], ahead: Ahead) -> None:
        """Saves a completed step, and the hidden flow of some of its rollouts under its weights.

        samples: of this rank.
        """
        count = self.config.flow.saved_samples
        shared = self.ranks.gather(samples[:count])
        if count and self.with_flow:
            self._save_flow(step, shared[:count])
        drawn_ahead = ahead.state(self.ranks)
        if self.ranks.main:
            self._write(step, drawn_ahead)
        elif self.model.fully_sharded:
            give_checkpoint_parts(self.model, self.teacher, self.optimizer)

    def load_newest(self, ahead: Ahead) -> tuple[int, list[str]]:
        """Loads the newest readable checkpoint; returns its step, 0 for none, and why newer ones were skipped."""
        skipped = []
        for step, folder in reversed(checkpoints_of(self.folder)):
            try:
                state = load_checkpoint(folder, self.model, self.teacher, self.optimizer)
            except MismatchError:
                raise  # it is whole: to go back beyond it would lose what is good
            except UserError as error:
                skipped.append(f"checkpoint skipped: {error}; set aside as {set_aside(folder).name}")
                continue
            ahead.restore(load_ahead(folder, self.model))
            restore_schedule(self.schedule, self.optimizer, state["schedule"])
            return step, skipped
        return 0, skipped

    def _save_flow(self, step: int, fresh: Sequence[Sample]) -> None:
        """Reads some rollouts, and those that the run follows, under the present weights; the main rank saves both.

        With sharded blocks the other ranks read the same: no pass is made without them.
        """
        config, model, teacher, main = self.config, self.model, self.teacher, self.ranks.main
        samples = self.ranks.gather([followed(self.folder, step, fresh)] if main else [])[0]
        if not (main or model.sharded):
            return
        flow = record_flow(model, teacher, fresh, config.flow.positions)
        temperature = config.divergence.temperature or config.rollout.temperature
        read = read_rollouts(model, teacher, samples, config.divergence, temperature, config.flow.positions)
        if main:
            save_flow(self.folder, step, flow)
            save_readings(self.folder, step, read)

    def _write(self, step: int, ahead: Mapping[str, Tensor]) -> None:
        """Writes the checkpoint, and only then removes older ones and moves the link to the best one."""
        config = self.config
        state = {"step": step, "model": stable_name(config.model), "schedule": self.schedule.state_dict()}
        folder = self.folder / "checkpoints" / step_name(step)
        save_checkpoint(folder, self.model, self.teacher, self.optimizer, state, ahead)
        write_sealed(folder / "README.md", model_card(config, step))
        best = self.validation and self.validation.best
        if self.validation and best and best["step"] == step:
            self.validation.point()
        prune_checkpoints(self.folder, config.keep, best["step"] if best else None)
