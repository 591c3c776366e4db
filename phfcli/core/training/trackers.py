"""Sends a run's metrics to trackers such as TensorBoard or W&B, through Accelerate.

What the trackers get is what metrics.jsonl and evaluations.jsonl hold: nothing of a run depends on them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.extensions import find
from phfcli.core.storage.schemas import ManifestForm, read_form

_PROJECT = "phf"

Report = Callable[[Mapping[str, Any]], None]


class Tracker(Protocol):
    """Where metrics go, such as a service with pages of curves."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Takes the settings of a new run, by dotted key with slashes."""
        ...

    def log(self, values: dict[str, Any], step: int) -> None:
        """Takes the numbers of a step; a list is NAME/1, NAME/2."""
        ...

    def finish(self) -> None: ...


@contextmanager
def reporting(config: TrainConfig, folder: Path, step: int) -> Iterator[Report]:
    """Opens the trackers of a run after so many steps; within it the value that it yields takes a step's metrics."""
    trackers = [_added(name, folder) or _start(name, folder, step) for name in config.report_to]
    if step == 0:
        for tracker in trackers:
            tracker.store_init_configuration(_flat(config.model_dump(mode="json"), as_text=True))

    def report(metrics: Mapping[str, Any]) -> None:
        values = _flat(metrics)
        for tracker in trackers:
            tracker.log(values, step=metrics["step"])

    try:
        yield report
    finally:
        for tracker in trackers:
            tracker.finish()


def check_trackers(config: TrainConfig) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    if not config.report_to:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    for name in config.report_to:
        if find("trackers", name) is None and name not in available:
            raise UserError(f"--report-to {name}: its package is not installed: pip install {name}")


def _added(name: str, folder: Path) -> "Tracker | None":
    """A tracker that somebody has added, opened for a run."""
    build = find("trackers", name)
    return None if build is None else build(folder)


def _start(name: str, folder: Path, step: int) -> Any:
    """A tracker that goes on where a stopped run had reported to it."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # its adapters ask for it
    if name == "tensorboard":
        options = {"run_name": name, "logging_dir": folder, "purge_step": step + 1}
    else:
        created = "".join(filter(str.isdigit, read_form(folder / "manifest.json", ManifestForm)["created"]))
        options = {"run_name": _PROJECT, "name": folder.name, "resume": "allow"}
        options |= {"id": f"{folder.name}-{created}", "dir": str(folder)} if name == "wandb" else {}
    tracker = LOGGER_TYPE_TO_CLASS[name](**options)
    tracker.start()
    return tracker


def _flat(tree: Mapping[str, Any], prefix: str = "", as_text: bool = False) -> dict[str, Any]:
    """A tree as one level of numbers: layer_energy[0] is layer_energy/1. Other values as text, or not at all."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/", as_text)
        elif isinstance(value, int | float):
            flat[f"{prefix}{key}"] = value
        elif as_text:
            flat[f"{prefix}{key}"] = str(value)
        elif isinstance(value, list):
            flat |= _flat({str(number): item for number, item in enumerate(value, start=1)}, f"{prefix}{key}/")
    return flat
