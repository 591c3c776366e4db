"""Sends a run's metrics to trackers such as TensorBoard or W&B."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError, markdown_lines
from phfcli.core.extensions import find
from phfcli.core.models.passes import Sample
from phfcli.core.storage.schemas import ManifestForm, read_form

_PROJECT = "phf"
_SAMPLES = 4  # of a checkpoint
_LONGEST_TEXT = 4_000  # characters of a prompt or a rollout


class TrackedSample(NamedTuple):
    """A row of the table of samples; texts are cut at 4,000 characters."""

    prompt: str
    rollout: str
    tokens: int
    reward: float | None  # None where the objective needs no reward


class Tracker(Protocol):
    """Where metrics go, such as a service with curves. One that is also a `SampleTracker` gets samples too."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Takes the settings of a new run, by dotted key with slashes."""
        ...

    def log(self, values: dict[str, Any], step: int) -> None:
        """Takes the numbers of a step; a list is NAME/1, NAME/2."""
        ...

    def finish(self) -> None: ...


@runtime_checkable
class SampleTracker(Protocol):
    """The part of a tracker that takes samples. A tracker of others may leave it out."""

    def log_samples(self, samples: Sequence[TrackedSample], step: int) -> None:
        """Takes the first rollouts of a step that has a checkpoint."""
        ...


LogSamples = Callable[[Sequence[TrackedSample], int], None]


@dataclass(frozen=True)
class Reporter:
    """The open trackers of a run, and how those that take samples take them."""

    trackers: Sequence[Tracker]
    log_samples: Sequence[LogSamples]

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Sends the numbers of a step."""
        values = _flat({name: value for name, value in metrics.items() if name != "alarms"})
        for tracker in self.trackers:
            tracker.log(values, step=metrics["step"])

    def samples(
        self, samples: Sequence[Sample], text: Callable[[Sequence[int]], str], rewarded: bool, step: int
    ) -> None:
        """Sends the first of a step's samples. text: decodes token ids; rewarded: whether they have rewards."""
        rows = [
            TrackedSample(
                prompt=_cut(text(sample.student_prompt)),
                rollout=_cut(text(sample.completion)),
                tokens=len(sample.completion),
                reward=sample.reward if rewarded else None,
            )
            for sample in (samples[:_SAMPLES] if self.log_samples else ())
        ]
        for log in self.log_samples:
            log(rows, step)


@contextmanager
def reporting(config: TrainConfig, folder: Path, step: int) -> Iterator[Reporter]:
    """Opens the trackers of a run after so many steps, and closes them at its end."""
    opened = [_open(name, folder, step) for name in config.report_to]
    trackers = [tracker for tracker, _ in opened]
    if step == 0:
        for tracker in trackers:
            tracker.store_init_configuration(_flat(config.model_dump(mode="json"), as_text=True))
    try:
        yield Reporter(trackers, [log for _, log in opened if log is not None])
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
            raise UserError(f"report_to: the package of {name} is not installed: pip install {name}")


def _open(name: str, folder: Path, step: int) -> tuple[Tracker, LogSamples | None]:
    """A tracker, ours or one that somebody has added, and how it takes samples if it does."""
    build = find("trackers", name)
    if build is not None:
        added = build(folder)
        return added, added.log_samples if isinstance(added, SampleTracker) else None
    tracker = _start(name, folder, step)
    if name == "tensorboard":
        return tracker, partial(_as_markdown, tracker.tracker)
    return tracker, partial(_as_table, import_module(name).Table, tracker.tracker)


def _as_markdown(writer: Any, samples: Sequence[TrackedSample], step: int) -> None:
    """For the text tab of TensorBoard."""
    rows = [["-" if cell is None else str(cell) for cell in sample] for sample in samples]
    writer.add_text("rollouts", "\n".join(markdown_lines(TrackedSample._fields, rows)), step)
    writer.flush()


def _as_table(table: Any, run: Any, samples: Sequence[TrackedSample], step: int) -> None:
    """For W&B and trackio, whose libraries call a table the same."""
    rows = [list(sample) for sample in samples]
    run.log({"rollouts": table(columns=list(TrackedSample._fields), data=rows)}, step=step)


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} … {more} more characters"


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
