"""Resolves the TARGET of a command to a model or checkpoint, and lists the runs in a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phfcli.core.errors import UserError
from phfcli.core.extensions import short_name
from phfcli.core.runs.folder import (
    VALIDATIONS,
    check_sums,
    checkpoints_of,
    evaluation_files,
    is_run,
    recorded_config,
    step_of,
)
from phfcli.core.runs.summaries import read_summary
from phfcli.core.shipped_files import EMBEDDED
from phfcli.core.storage.files import is_temporary, unused
from phfcli.core.storage.schemas import (
    AdapterForm,
    StepForm,
    TrainerForm,
    ValidationForm,
    read_form,
    read_forms,
)
from phfcli.core.storage.tensors import check_tensors


@dataclass(frozen=True)
class Target:
    """The model that a TARGET resolves to."""

    name: str  # for folders and tables
    model: str  # the base model of an adapter, or the model itself
    origin: str  # the model from which training started
    adapter: Path | None = None
    run: Path | None = None
    step: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the target is a model without any training by phf."""
        return self.adapter is None and self.model == self.origin


def find_target(text: str, base: str | None = None) -> Target:
    """Resolves a run (to its newest checkpoint), a checkpoint, an adapter folder or a plain model.

    Args:
        text: a path in any spelling, a hub id, or "embedded".
        base: the base model of an adapter, if it is not the one that the adapter names.

    Raises:
        UserError: a run without checkpoints, or an adapter without its weights. The base model alone is never evaluated
            under an adapter's name.
    """
    path = _plain_path(text)
    if is_run(path):
        checkpoints = checkpoints_of(path)
        if not checkpoints:
            raise UserError(f"{text}: the run has no complete checkpoint yet")
        path = checkpoints[-1][1]
    if (path / "adapter_config.json").is_file() or _is_checkpoint(path):
        return _checkpoint_target(path, base)
    if (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{text}: an adapter without its adapter_config.json")
    if base is not None:
        raise UserError(f"base: {text} is not an adapter, so it has no base model")
    return Target(name=EMBEDDED if text == EMBEDDED else path.absolute().name, model=text, origin=text)


def _checkpoint_target(path: Path, base: str | None) -> Target:
    """Resolves a checkpoint of a run, or any other adapter."""
    full_weights = (path / "config.json").is_file()
    weights = path / ("model.safetensors" if full_weights else "adapter_model.safetensors")
    if not weights.is_file():
        what = "a model" if full_weights else "an adapter"
        raise UserError(f"{path}: {what} without its weights ({weights.name} is missing)")
    check_tensors(weights)
    check_sums(path, training=False)
    if full_weights and base is not None:
        raise UserError(f"base: {path} is not an adapter, so it has no base model")
    adapter, folder = None if full_weights else path, path.absolute()
    step = step_of(folder.name)
    if step is not None and folder.parent.name == "checkpoints" and _is_checkpoint(path):
        run = _plain_path(str(folder.parents[1]))
        origin = base or str(read_form(path / "trainer.json", TrainerForm)["model"])
        model = str(path) if full_weights else origin
        return Target(run.absolute().name, model, origin, adapter=adapter, run=run, step=step)
    if full_weights:  # a checkpoint that was copied out of its run
        return Target(folder.name, str(path), str(read_form(path / "trainer.json", TrainerForm)["model"]))
    named = base or read_form(path / "adapter_config.json", AdapterForm).get("base_model_name_or_path")
    if not named:
        raise UserError(f"{path / 'adapter_config.json'}: base_model_name_or_path is missing; set base to the model")
    return Target(folder.name, str(named), str(named), adapter=path)


def _plain_path(text: str) -> Path:
    """A path without symbolic links, dots and trailing slashes; relative if it lies below the working directory."""
    try:
        path = Path(text).resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise UserError(f"{text}: the path is a loop of symbolic links, or cannot be followed") from None
    here = Path.cwd()
    below = path.is_relative_to(here) and here != Path(
        here.anchor
    )  # below the root a relative path would only lose its slash
    return path.relative_to(here) if below else path


def _is_checkpoint(path: Path) -> bool:
    return (path / "trainer.json").is_file()


State = Literal["training", "done", "stopped", "damaged"]


@dataclass(frozen=True)
class RunState:
    """The state of a run on disk; `problem` says what is wrong with a damaged one."""

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
    """The runs below a folder, or the folder itself if it is a run, in the order of their last change."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = [
        path.parent
        for path in folder.glob("**/config.yaml")
        if "checkpoints" not in path.parts and not any(map(is_temporary, path.parents))
    ]
    return sorted((run_state(path) for path in found), key=lambda run: run.changed)


def run_state(folder: Path) -> RunState:
    """The state of a run, from its files."""
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
    return RunState(folder, state, short_name(config.objective), config.model, step, config.steps, loss, best, changed)


def in_use(folder: Path) -> bool:
    """Whether a `phf train` writes into the run now."""
    lock = folder / "lock"
    if not lock.exists():
        return False
    with unused(lock) as free:
        return not free


def _averages(folder: Path) -> Iterator[float]:
    for line in read_forms(folder / VALIDATIONS, ValidationForm):
        yield line["average"]
    for path in evaluation_files(folder, "summary.json"):
        yield read_summary(path)["average"]


def leftovers(folder: Path) -> list[Path]:
    """The folders that a clean-up removes: runs without any checkpoint that have stopped, and damaged checkpoints."""
    runs = [run for run in find_runs(folder) if run.state != "training"]
    empty = [run.folder for run in runs if run.state == "stopped" and not checkpoints_of(run.folder)]
    aside = [path for run in runs for path in sorted((run.folder / "checkpoints").glob("damaged-*"))]
    return [*empty, *(path for path in aside if path.parents[1] not in empty)]
