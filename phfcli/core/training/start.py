"""Starts or resumes a training run up to its first step, and stops it between two steps at a signal."""

import datetime
import difflib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.runs.folder import (
    changed_inputs,
    check_resumable,
    claim_folder,
    default_folder,
    is_run,
    note_settings,
    recorded_config,
    saved_config,
    training_alone,
    trust_own_code,
    whole_manifest,
)
from phfcli.core.settings import Source, resolve_train, train_origins
from phfcli.core.training.metrics import Metrics
from phfcli.core.training.ranks import Ranks, joined
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trackers import Reporter, reporting
from phfcli.core.training.trainer import Trainer

Warn = Callable[[str], None]
Tell = Callable[[str], None]
Resume = bool | Literal["must"]


@dataclass(frozen=True)
class Start:
    """Where a run is kept and under which settings it runs.

    forced: None for a new run; for one that goes on, the settings that are not as they were, in words.
    force: whether a run goes on although something that it reads is not as it was.
    origins: which recipe, file or option gave each setting that is not a default.
    """

    folder: Path
    config: TrainConfig
    forced: Sequence[str] | None = None
    force: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    begun: str = ""  # that a run to go on with was not there, in a sentence

    @property
    def resumes(self) -> bool:
        return self.forced is not None


@dataclass(frozen=True)
class Running:
    """A run that is open: its trainer, and where each step is reported to."""

    trainer: Trainer
    reporter: Reporter
    stopped_by: list[signal.Signals]  # the signal that has asked it to stop, if one has

    def steps(self) -> Iterator[Metrics]:
        """Trains to the end; yields the metrics of each step once they are on disk and reported."""
        for metrics in self.trainer.train():
            self.reporter.step(metrics)
            trainer, needs = self.trainer, self.trainer.objective.needs
            if trainer.saved == trainer.step and not needs.offline:
                self.reporter.samples(trainer.samples, trainer.model.description.text, needs.reward, trainer.step)
            yield metrics


@contextmanager
def running(
    sources: Sequence[Source],
    resume_it: Resume,
    force: bool,
    warn: Warn,
    tell: Tell,
    fresh_folder: bool = False,
    stopping: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> Iterator[Running]:
    """Opens a run, a new one or one that goes on, up to its next step; a signal then ends it after the present step.

    tell: takes what is said at the start, a sentence at a time; only the main one of several processes speaks.
    fresh_folder: where the default folder is taken, the run takes the next free one: NAME-2, NAME-3.
    stopping: the signals that end it.

    Raises:
        UserError: for whatever cannot be trained; nothing has been written then.
    """
    with (
        joined(resolve_train(list(sources)).device) as ranks,
        opened_run(sources, resume_it, force, ranks, fresh_folder) as start,
    ):
        trainer = start_trainer(start, ranks, warn)
        for line in _about(trainer, start) if ranks.main else ():
            tell(line)
        with stops_at(trainer, stopping) as stopped_by, open_trackers(trainer) as reporter:
            yield Running(trainer, reporter, stopped_by)
        ranks.wait()  # a launcher ends the others when one has ended


def _about(trainer: Trainer, start: Start) -> Iterator[str]:
    """What is said of a run once nothing of it can be refused any more."""
    model, size = trainer.model, trainer.ranks.size
    if start.begun:
        yield start.begun
    many = f" in {size} processes" if size > 1 else ""
    yield f"training {start.config.model} with {start.config.objective} in {start.folder}{many}"
    yield f"on {model.device}, {model.compute or model.head.dtype}, attention by {model.attention}"
    yield from trainer.notes
    if start.resumes:
        yield f"going on after step {trainer.step} of {start.config.steps}"


@contextmanager
def opened_run(
    sources: Sequence[Source], resume_it: Resume, force: bool, ranks: Ranks, fresh_folder: bool = False
) -> Iterator[Start]:
    """The folder and the settings of a run, a new one or with `resume_it` the one in the folder, locked while it runs.

    resume_it: "must" refuses to begin one.

    Raises:
        UserError: for a folder that holds something else, or settings that differ from the run's and are not forced.
    """
    config = resolve_train(list(sources))
    folder = Path(config.output_dir) if config.output_dir else default_folder(config, free=fresh_folder)
    with ExitStack() as stack:
        with ranks.together():
            if resume_it == "must" and not is_run(folder):
                raise UserError(f"resume: no run is in {folder}{_nearest_run(folder)}")
            if ranks.main:
                stack.enter_context(training_alone(folder))
            start = _start(folder, config, sources, resume_it, force, ranks)
        yield start


def _nearest_run(folder: Path) -> str:
    """A hint with the run beside a folder whose name is the nearest; nothing where no run is."""
    runs = [path.name for path in folder.parent.glob("*") if path != folder and is_run(path)]
    found = difflib.get_close_matches(folder.name, runs, n=1, cutoff=0.0)
    return f"; the run with the nearest name is {folder.parent / found[0]}" if found else ""


def _start(
    folder: Path, config: TrainConfig, sources: Sequence[Source], resume_it: Resume, force: bool, ranks: Ranks
) -> Start:
    if resume_it and is_run(folder):
        trust_own_code(folder)
        config = resolve_train([saved_config(folder), *sources])
        return Start(folder, config, check_resumable(folder, config, force), force)
    if ranks.main:
        claim_folder(folder)
    begun = f"resume: no run is in {folder} yet, so one begins there{_nearest_run(folder)}" if resume_it else ""
    return Start(folder, config, origins=train_origins(list(sources)), begun=begun)


def start_trainer(start: Start, ranks: Ranks, warn: Warn) -> Trainer:
    """A trainer that is ready for its next step.

    Raises:
        UserError: for whatever cannot be trained; nothing has been written then.
    """
    (today, *_) = ranks.gather([datetime.datetime.now().astimezone().date()])
    with ranks.together():
        trainer = build_trainer(start.config, start.folder, not start.resumes, ranks, today, start.origins)
        manifest = whole_manifest(start.folder) if start.resumes and ranks.main else {}
        forced = [*(start.forced or ()), *_changed_inputs(start, trainer, manifest)]
    for warning in trainer.warnings if ranks.main else ():
        warn(warning)
    if start.forced is not None:
        trainer.resume(warn, forced, manifest)
        if forced and ranks.main:
            warn(f"forced from step {trainer.step} on: {'; '.join(forced)}")
        if ranks.main and (forced or trainer.step < trainer.config.steps):
            before = recorded_config(start.folder)
            config = trainer.config.model_copy(update={"output_dir": before.output_dir})  # the folder may have moved
            if config != before:
                note_settings(start.folder, config)
    return trainer


def _changed_inputs(start: Start, trainer: Trainer, manifest: dict[str, Any]) -> list[str]:
    """What a run that goes on reads and is not as it was. Raises UserError for it, unless it is forced."""
    if not manifest:
        return []
    bench = None if trainer.validation is None else trainer.validation.bench_sha256
    rows = {"data": trainer.rollouts.curriculum.sha256, "bench": bench}
    changed = changed_inputs(manifest, start.config, rows)
    if changed and not start.force:
        raise UserError(f"resume: {changed[0]}; choose another output_dir, or set force to go on with it")
    return changed


def open_trackers(trainer: Trainer) -> AbstractContextManager[Reporter]:
    """The trackers of a run; only the main rank reports."""
    config = trainer.config if trainer.ranks.main else trainer.config.model_copy(update={"report_to": ()})
    return reporting(config, trainer.folder, trainer.step)


@contextmanager
def stops_at(trainer: Trainer, numbers: Sequence[signal.Signals]) -> Iterator[list[signal.Signals]]:
    """Within it these signals only ask the trainer to stop after the present step; yields a list of those that came.

    SIGTERM is what schedulers send before they take a machine away, SIGINT is Ctrl-C, of which a second one does what
    it did before. Only the main thread can be asked this way.
    """
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def ask(number: int, _frame: object) -> None:
        trainer.stopping = True
        came.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
            if trainer.ranks.main:
                with suppress(OSError):
                    os.write(2, b"phf: stopping after this step; Ctrl-C again stops at once\n")

    # a shell's job in the background ignores Ctrl-C, and keeps to that
    taken = [number for number in numbers if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in taken}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
