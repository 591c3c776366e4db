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
from phfcli.core.extensions import conforming, find
from phfcli.core.models.passes import Sample
from phfcli.core.storage.schemas import ManifestForm, read_form

_PROJECT = "phf"
_SAMPLES = 4  # sent with each checkpoint
_LONGEST_TEXT = 4_000  # characters of a prompt or a rollout


class TrackedSample(NamedTuple):
    """A row of the table of samples. Texts are cut at 4,000 characters."""

    prompt: str
    rollout: str
    tokens: int
    reward: float | None  # None where the objective needs no reward


@runtime_checkable
class Tracker(Protocol):
    """Receives the metrics of a run, to show curves. A tracker that has `log_samples` also receives samples."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Receives the settings of a new run; keys are those of the settings with slashes for dots."""
        ...

    def log(self, values: dict[str, Any], step: int) -> None:
        """Receives the numbers of a step; a list comes as NAME/1, NAME/2, ..."""
        ...

    def finish(self) -> None: ...


@runtime_checkable
class SampleTracker(Protocol):
    """The optional part of a tracker that receives samples."""

    def log_samples(self, samples: Sequence[TrackedSample], step: int) -> None:
        """Receives the first rollouts of a step that has a checkpoint."""
        ...


LogSamples = Callable[[Sequence[TrackedSample], int], None]


@dataclass(frozen=True)
class Reporter:
    """The open trackers of a run, and the functions by which some of them receive samples."""

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
        """Sends the first samples of a step.

        text: decodes token ids.
        rewarded: whether the samples have rewards.
        """
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
    """Opens the trackers of a run that is at `step`, and closes them at its end."""
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
    """A tracker, built in or a plugin, and its function for samples, if it has one."""
    build = find("trackers", name)
    if build is not None:
        plugin = conforming("trackers", name, build(folder), Tracker)
        return plugin, plugin.log_samples if isinstance(plugin, SampleTracker) else None
    tracker = _start(name, folder, step)
    if name == "tensorboard":
        return tracker, partial(_as_markdown, tracker.tracker)
    return tracker, partial(_as_table, import_module(name).Table, tracker.tracker)


def _as_markdown(writer: Any, samples: Sequence[TrackedSample], step: int) -> None:
    """Sends samples to the text tab of TensorBoard."""
    rows = [["-" if cell is None else str(cell) for cell in sample] for sample in samples]
    writer.add_text("rollouts", "\n".join(markdown_lines(TrackedSample._fields, rows)), step)
    writer.flush()


def _as_table(table: Any, run: Any, samples: Sequence[TrackedSample], step: int) -> None:
    """Sends samples to W&B or trackio, whose tables have the same interface."""
    rows = [list(sample) for sample in samples]
    run.log({"rollouts": table(columns=list(TrackedSample._fields), data=rows)}, step=step)


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} … {more} more characters"


def _start(name: str, folder: Path, step: int) -> Any:
    """A built-in tracker, which continues the record of a resumed run."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # accelerate's trackers need it
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
    """A tree as one level of numbers: layer_energy[0] becomes layer_energy/1. Other values are text, or left out."""
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
