"""Sends a run's metrics to trackers such as TensorBoard or W&B."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError, markdown_lines
from phfcli.core.extensions import find
from phfcli.core.storage.schemas import ManifestForm, read_form

Cell = str | float | None
Pixels = NDArray[np.uint8]  # [height, width, 3], red, green and blue


@dataclass(frozen=True)
class TrackedTable:
    """A table whose columns hold numbers or text; None is a gap."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Findings:
    """What a run has to show at a checkpoint, under the names that trackers show it by."""

    tables: Mapping[str, TrackedTable] = field(default_factory=dict)
    pictures: Mapping[str, Pixels] = field(default_factory=dict)
    verdict: Sequence[str] = ()  # sentences


@runtime_checkable
class Pages(Protocol):
    """The part of a tracker that takes more than numbers. A tracker of others may leave it out."""

    def show(self, findings: Findings, step: int) -> None:
        """Takes what a run has to show at a checkpoint."""
        ...

    def alarm(self, name: str, sentence: str, step: int) -> None:
        """Takes an alarm of a step; each name comes once in a run."""
        ...


class TensorBoardPages:
    """Tables and sentences as Markdown in the text tab, pictures in the image tab."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def show(self, findings: Findings, step: int) -> None:
        for name, table in findings.tables.items():
            rows = [[_text(cell) for cell in row] for row in table.rows]
            self._writer.add_text(name, "\n".join(markdown_lines(table.columns, rows)), step)
        for name, picture in findings.pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.add_text("verdict", "\n\n".join(findings.verdict), step)
        self._writer.flush()

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._writer.add_text(f"alarm/{name}", sentence, step)
        self._writer.flush()


class LoggedPages:
    """For W&B and trackio, whose libraries have the same names for tables, pictures and alerts."""

    def __init__(self, library: Any, run: Any) -> None:
        self._library, self._run = library, run

    def show(self, findings: Findings, step: int) -> None:
        library = self._library
        tables = {
            name: library.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in findings.tables.items()
        }
        pictures = {name: library.Image(picture) for name, picture in findings.pictures.items()}
        verdict = library.Table(columns=["verdict"], data=[[sentence] for sentence in findings.verdict])
        self._run.log({**tables, **pictures, "verdict": verdict}, step=step)

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._run.alert(title=f"{name} at step {step}", text=sentence)


def pages_of(name: str, opened: Any) -> Pages:
    """The pages of a tracker that comes with phf; `opened` is its library's writer or run."""
    return TensorBoardPages(opened) if name == "tensorboard" else LoggedPages(import_module(name), opened)


def _text(cell: Cell) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else "-" if cell is None else str(cell)


_PROJECT = "phf"


class Tracker(Protocol):
    """Where metrics go, such as a service with pages of curves. One that is also `Pages` gets the findings too."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Takes the settings of a new run, by dotted key with slashes."""
        ...

    def log(self, values: dict[str, Any], step: int) -> None:
        """Takes the numbers of a step; a list is NAME/1, NAME/2."""
        ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class Reporter:
    """The open trackers of a run, and the pages of those that have any."""

    trackers: Sequence[Tracker]
    pages: Sequence[Pages]

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Sends the metrics of a step, and the alarms that it has raised."""
        values = _flat({name: value for name, value in metrics.items() if name != "alarms"})
        for tracker in self.trackers:
            tracker.log(values, step=metrics["step"])
        for alarm in metrics.get("alarms", []):
            for page in self.pages:
                page.alarm(alarm["alarm"], alarm["sentence"], metrics["step"])

    def show(self, findings: Findings, step: int) -> None:
        """Sends what there is to see at a checkpoint."""
        for page in self.pages:
            page.show(findings, step)


@contextmanager
def reporting(config: TrainConfig, folder: Path, step: int) -> Iterator[Reporter]:
    """Opens the trackers of a run after so many steps, and closes them at its end."""
    opened = [_open(name, folder, step) for name in config.report_to]
    trackers = [tracker for tracker, _ in opened]
    if step == 0:
        for tracker in trackers:
            tracker.store_init_configuration(_flat(config.model_dump(mode="json"), as_text=True))
    try:
        yield Reporter(trackers, [pages for _, pages in opened if pages is not None])
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


def _open(name: str, folder: Path, step: int) -> tuple[Tracker, Pages | None]:
    """A tracker, ours or one that somebody has added, and its pages if it has any."""
    build = find("trackers", name)
    if build is not None:
        added = build(folder)
        return added, added if isinstance(added, Pages) else None
    tracker = _start(name, folder, step)
    return tracker, pages_of(name, tracker.tracker)


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
