"""A few of a run's rollouts, read again at each checkpoint: RUN/rollouts/step-000025.json.

The rollouts are those of the first saved step. At later steps student and teacher read the same tokens with the weights
of that step, which shows what training changes. A file holds, for each token, the student's and the teacher's
probability, their divergence and the part of it that the clip removes, and at the selected positions the flow's energy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.config import DivergenceSettings
from phfcli.core.errors import UserError
from phfcli.core.losses.flow import measure_rollout
from phfcli.core.losses.fused_divergence import fused_divergence_stats
from phfcli.core.losses.policy_gradient import token_logprobs
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.runs.folder import step_name, step_of
from phfcli.core.storage.schemas import RolloutsForm, read_form
from phfcli.core.storage.seals import write_sealed

_FOLDER = "rollouts"
_DIGITS = 5  # decimals in the files


def save_readings(run: Path, step: int, rollouts: Sequence[dict[str, Any]]) -> None:
    """Writes the readings of a step."""
    write_sealed(run / _FOLDER / f"{step_name(step)}.json", {"step": step, "rollouts": list(rollouts)})


def load_readings(run: Path) -> list[dict[str, Any]]:
    """The readings of all saved steps, in order. Raises UserError for a file of another form."""
    return [read_reading(path) for path in reading_files(run)]


def read_reading(path: Path) -> dict[str, Any]:
    """The readings of a file. Raises UserError for another form, or another step than its name says."""
    reading = read_form(path, RolloutsForm)
    if reading["step"] != step_of(path.stem):
        raise UserError(f"{path}: is of step {reading['step']}; give the file its own name back")
    return reading


def reading_files(run: Path) -> list[Path]:
    """The files of a run's readings, in the order of their steps."""
    steps = [(step_of(path.stem), path) for path in (run / _FOLDER).glob("*.json")]
    return [path for _, path in sorted((step, path) for step, path in steps if step is not None)]


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
