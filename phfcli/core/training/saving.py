"""Saves checkpoints and hidden flows during training, and reads the newest checkpoint back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from phfcli.core.config import DivergenceSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.flow import measure_rollout
from phfcli.core.losses.fused_divergence import fused_divergence_stats
from phfcli.core.losses.policy_gradient import token_logprobs
from phfcli.core.models.description import stable_name
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.runs.checkpoints import (
    MismatchError,
    give_checkpoint_parts,
    load_ahead,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    set_aside,
)
from phfcli.core.runs.flows import record_flow, save_flow
from phfcli.core.runs.folder import checkpoints_of, step_name, step_of
from phfcli.core.runs.model_card import model_card
from phfcli.core.runs.readings import read_reading, reading_files, save_readings
from phfcli.core.storage.seals import write_sealed
from phfcli.core.training.optimizer import restore_schedule
from phfcli.core.training.ranks import Ranks
from phfcli.core.training.rollouts import Ahead
from phfcli.core.training.validation import Validation

_DIGITS = 5  # decimals of a reading


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


def followed(run: Path, step: int, fresh: Sequence[Sample]) -> list[Sample]:
    """The rollouts that a run reads at each checkpoint: those of its first saved step, or `fresh` at the first step."""
    first = next((path for path in reading_files(run) if (step_of(path.stem) or 0) < step), None)
    if first is None:
        return list(fresh)
    rollouts = read_reading(first)["rollouts"]
    return [Sample(r["student_prompt"], r["teacher_prompt"], r["completion"]) for r in rollouts]


@torch.no_grad()
def read_rollouts(
    model: LanguageModel,
    teacher: Teacher,
    samples: Sequence[Sample],
    settings: DivergenceSettings,
    temperature: float,
    positions: int,
) -> list[dict[str, Any]]:
    """Reads samples as student and as teacher with the present weights; returns a record for each sample.

    Args:
        settings: the divergence, with its clip.
        temperature: divides the logits.
        positions: the largest number of selected positions of a rollout.
    """
    model.network.eval()
    layers = range(1, len(model.blocks) + 1)
    batch = collate(samples, positions, model.description.pad_id, model.device)
    teacher_pass = teacher.run_pass(model, batch, layers)
    student_pass = run_pass(model, batch.student, batch, layers)
    tokens = _tokens(student_pass, teacher_pass, batch, settings, temperature)
    flows = _flows(student_pass, teacher_pass, batch)
    return [
        {
            "problem": model.description.text(sample.student_prompt),
            "context": model.description.text(sample.teacher_prompt or ()),
            "student_prompt": list(sample.student_prompt),
            "teacher_prompt": list(sample.teacher_prompt or ()),
            "completion": list(sample.completion),
            "tokens": [model.description.tokenizer.decode([token]) for token in sample.completion],
            **{name: _rounded(values[batch.tokens[0] == row]) for name, values in tokens.items()},
            "flow": flows[row],
        }
        for row, sample in enumerate(samples)
    ]


def _tokens(
    student: Pass, teacher: Pass, batch: Batch, settings: DivergenceSettings, temperature: float
) -> dict[str, Tensor]:
    """For each token, [N]: both probabilities, the divergence in nats, and the part that the clip removes."""
    weights = student.hidden.new_ones(len(student.hidden), dtype=torch.float32)
    options = settings.of_each_token()
    head = student.head
    stats = fused_divergence_stats(student.hidden, teacher.hidden, head, weights, temperature=temperature, **options)[1]
    probabilities = {
        name: token_logprobs(read.hidden, head, batch.token_ids, temperature).exp()
        for name, read in (("student", student), ("teacher", teacher))
    }
    return {**probabilities, "divergence": stats.divergence, "clip_took": stats.divergence - stats.kept}


def _flows(student: Pass, teacher: Pass, batch: Batch) -> list[dict[str, float]]:
    """For each sample, selected position -> energy of the transition that starts there (eq. 8), mean over layers."""
    flows = []
    for row, count in enumerate(batch.valid.sum(1).tolist()):
        energy: list[float] = []
        if count > 1:
            measures = measure_rollout(student.states[:, row, :count], teacher.states[:, row, :count])
            energy = _rounded(((measures.direction + measures.geometry) / 2).mean(0))
        starts = batch.positions[row, : len(energy)].tolist()
        flows.append({str(position): value for position, value in zip(starts, energy, strict=True)})
    return flows


def _rounded(values: Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
