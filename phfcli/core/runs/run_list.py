"""Lists the runs of a folder, with how far each has come."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phfcli.core.errors import UserError
from phfcli.core.runs.checkpoints import checkpoints_of
from phfcli.core.runs.layout import evaluation_files
from phfcli.core.runs.run_folder import recorded_config
from phfcli.core.storage.files import remove_folder
from phfcli.core.storage.locks import unused
from phfcli.core.storage.schemas import StepForm, SummaryForm, ValidationForm, read_form, read_forms

State = Literal["training", "done", "stopped", "damaged"]


@dataclass(frozen=True)
class RunState:
    """How far a run has come; `problem` says what is wrong with a damaged one."""

    folder: Path
    state: State
    objective: str = "-"
    model: str = "-"
    step: int = 0
    steps: int = 0
    loss: float | None = None
    best: float | None = None  # the highest Average@n of any benchmark or evaluation during training
    changed: float = 0.0  # seconds since the epoch
    problem: str = ""


def find_runs(folder: Path) -> list[RunState]:
    """The runs below a folder, or the run that it is, the one that changed last at the end."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = [path.parent for path in folder.glob("**/config.yaml") if "checkpoints" not in path.parts]
    return sorted((run_state(path) for path in found), key=lambda run: run.changed)


def run_state(folder: Path) -> RunState:
    """How far a run has come, from its files."""
    metrics = folder / "metrics.jsonl"
    changed = max(path.stat().st_mtime for path in (folder / "config.yaml", metrics) if path.exists())
    try:
        config = recorded_config(folder)
        lines = read_forms(metrics, StepForm)
        best = max(_averages(folder), default=None)
    except UserError as error:
        return RunState(folder, "damaged", changed=changed, problem=str(error))
    step = int(lines[-1]["step"]) if lines else 0
    state: State = "training" if in_use(folder) else "done" if step >= config.steps else "stopped"
    loss = float(lines[-1]["loss"]) if lines else None
    return RunState(folder, state, config.objective, config.model, step, config.steps, loss, best, changed)


def in_use(folder: Path) -> bool:
    """Whether a `phf train` is at work in a run."""
    lock = folder / "lock"
    if not lock.exists():
        return False
    with unused(lock) as free:
        return not free


def _averages(folder: Path) -> Iterator[float]:
    for line in read_forms(folder / "evaluations.jsonl", ValidationForm):
        yield line["average"]
    for path in evaluation_files(folder, "summary.json"):
        yield read_form(path, SummaryForm)["average"]


def leftovers(folder: Path) -> list[Path]:
    """What a clean-up would remove: runs that stopped before their first checkpoint, and checkpoints set aside."""
    runs = [run for run in find_runs(folder) if run.state != "training"]
    empty = [run.folder for run in runs if run.state == "stopped" and not checkpoints_of(run.folder)]
    aside = [path for run in runs for path in sorted((run.folder / "checkpoints").glob("damaged-*"))]
    return [*empty, *(path for path in aside if path.parents[1] not in empty)]


def remove(paths: list[Path]) -> None:
    """Removes folders that `leftovers` has named."""
    for path in paths:
        remove_folder(path)
