"""A few of a run's own rollouts, read again at each checkpoint: RUN/rollouts/step-000025.json.

They are the rollouts of the first saved step; at later ones the same tokens are read under the weights of that step, so
that one sees what training changes. Of each token there are both readers' probabilities, their divergence, what the
clip took of it, and at the selected positions the energy of the flow.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.config import DivergenceSettings
from phfcli.core.losses.flow import measure_rollout
from phfcli.core.losses.fused_divergence import fused_divergence_stats
from phfcli.core.losses.policy_gradient import token_logprobs
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.runs.folder import step_name, step_of
from phfcli.core.storage.files import write_json
from phfcli.core.storage.schemas import RolloutsForm, read_form

_FOLDER = "rollouts"
_DIGITS = 5


def save_readings(run: Path, step: int, rollouts: Sequence[dict[str, Any]]) -> None:
    """Writes what was read at a step."""
    write_json(run / _FOLDER / f"{step_name(step)}.json", {"step": step, "rollouts": list(rollouts)})


def load_readings(run: Path) -> list[dict[str, Any]]:
    """What was read at each saved step, in order. Raises UserError for a file of another form."""
    return [read_form(path, RolloutsForm) for path in reading_files(run)]


def reading_files(run: Path) -> list[Path]:
    """The files of a run, by their steps."""
    steps = [(step_of(path.stem), path) for path in (run / _FOLDER).glob("*.json")]
    return [path for _, path in sorted((step, path) for step, path in steps if step is not None)]


def followed(run: Path, step: int, fresh: Sequence[Sample]) -> list[Sample]:
    """The rollouts that a run follows: those of its first saved step, or these where this is the first."""
    first = next((path for path in reading_files(run) if (step_of(path.stem) or 0) < step), None)
    if first is None:
        return list(fresh)
    rollouts = read_form(first, RolloutsForm)["rollouts"]
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
    """What both readers say of the samples' tokens under the present weights."""
    model.network.eval()
    layers = range(1, len(model.blocks) + 1)
    batch = collate(samples, positions, model.description.pad_id, model.device)
    other = teacher.run_pass(model, batch, layers)
    own = run_pass(model, batch.student, batch, layers)
    tokens = _tokens(own, other, batch, settings, temperature)
    flows = _flows(own, other, batch)
    return [
        {
            "problem": model.description.text(sample.student_prompt),
            "context": model.description.text(sample.teacher_prompt or ()),
            "student_prompt": list(sample.student_prompt),
            "teacher_prompt": list(sample.teacher_prompt or ()),
            "completion": list(sample.completion),
            "tokens": [model.description.tokenizer.decode([token]) for token in sample.completion],
            **{name: _rounded(values[batch.tokens[0] == place]) for name, values in tokens.items()},
            "flow": flows[place],
        }
        for place, sample in enumerate(samples)
    ]


def _tokens(
    own: Pass, other: Pass, batch: Batch, settings: DivergenceSettings, temperature: float
) -> dict[str, Tensor]:
    """Of each token [N] both probabilities, the divergence, and what the clip took."""
    weights = own.hidden.new_ones(len(own.hidden), dtype=torch.float32)
    options = settings.of_each_token()
    stats = fused_divergence_stats(own.hidden, other.hidden, own.head, weights, temperature=temperature, **options)[1]
    student, teacher = (token_logprobs(p.hidden, own.head, batch.token_ids, temperature).exp() for p in (own, other))
    taken = stats.divergence - stats.kept
    return {"student": student, "teacher": teacher, "divergence": stats.divergence, "clip_took": taken}


def _flows(own: Pass, other: Pass, batch: Batch) -> list[dict[str, float]]:
    """Of each sample, by position of its selected ones but the last: the energy of the transition, mean over layers."""
    found = []
    for place, count in enumerate(batch.valid.sum(1).tolist()):
        energy: list[float] = []
        if count > 1:
            measures = measure_rollout(own.states[:, place, :count], other.states[:, place, :count])
            energy = _rounded(((measures.direction + measures.geometry) / 2).mean(0))
        where = batch.positions[place, : len(energy)].tolist()
        found.append({str(position): value for position, value in zip(where, energy, strict=True)})
    return found


def _rounded(values: Tensor) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]
