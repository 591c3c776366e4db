"""A few of a run's rollouts, read again at each checkpoint: RUN/rollouts/step-000025.json.

The rollouts are those of the first saved step. At later steps student and teacher read the same tokens with the weights
of that step, which shows what training changes. A file holds, for each token, the student's and the teacher's
probability, their divergence and the part of it that the clip removes, and at the selected positions the flow's energy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.runs.folder import step_name, step_of
from phfcli.core.storage.schemas import RolloutsForm, read_form
from phfcli.core.storage.seals import write_sealed

_FOLDER = "rollouts"


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
