"""A training run as a command: its folder, what it says, how it is stopped."""

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phfcli.commands.common import log_console, print_json, result_console, warn, with_error
from phfcli.commands.watch import watch

if TYPE_CHECKING:
    from phfcli.core.config import TrainConfig
    from phfcli.core.training.distributed import Ranks
    from phfcli.core.training.loop import Trainer
    from phfcli.core.training.metrics import Metrics
    from phfcli.core.training.trackers import Report

_TERMINATED = 143  # by SIGTERM, as a shell reports it: whoever waits for the run must not take it for a finished one


def run(
    settings: "TrainConfig", sources: list[Any], resume: bool, force: bool, json_: bool, quiet: bool, ranks: "Ranks"
) -> None:
    """Starts or goes on with a run in this process, one of `ranks`, and shows it to its end."""
    from phfcli.core.training.setup import build_trainer

    with ranks.together():
        folder, settings, changes = _open(settings, sources, resume, force, ranks)
    going_on = changes is not None
    log = log_console(quiet or not ranks.main)
    many = f" in {ranks.size} processes" if ranks.size > 1 else ""
    log.print(f"training {settings.model} with {settings.objective} in {folder}{many}", markup=False, soft_wrap=True)
    with ranks.together():
        trainer = build_trainer(settings, folder, fresh=not going_on, ranks=ranks)
    model = trainer.model
    log.print(f"on {model.device}, {model.compute or model.head.dtype}, attention by {model.attention}")
    if going_on:
        _go_on(trainer, changes or [])
        log.print(f"going on after step {trainer.step} of {settings.steps}")
    with _stops_at_sigterm(trainer), _reporting(trainer) as report:
        last = watch(trainer, log, report)
    if ranks.main:
        _show_end(trainer, last, json_)
        if not trainer.done:
            _tell_of_stop(trainer)
    ranks.wait()  # a launcher ends the others when one has ended
    if not trainer.done:
        raise typer.Exit(_TERMINATED)


def _go_on(trainer: "Trainer", changes: list[str]) -> None:
    """Takes up what is in the run's folder; what is forced upon it is told and noted there."""
    from phfcli.core.runs.run_folder import note_settings
    from phfcli.core.training.saving import resume

    resume(trainer, warn)
    if changes and trainer.ranks.main:
        warn(f"forced from step {trainer.step} on: {'; '.join(changes)}")
        note_settings(trainer.folder, trainer.config)


def _reporting(trainer: "Trainer") -> "AbstractContextManager[Report]":
    from phfcli.core.training.trackers import reporting

    config = trainer.config if trainer.ranks.main else trainer.config.model_copy(update={"report_to": ()})
    return reporting(config, trainer.folder, trainer.step)


def _open(
    settings: "TrainConfig", sources: list[Any], resume: bool, force: bool, ranks: "Ranks"
) -> tuple[Path, "TrainConfig", list[str] | None]:
    """The run's folder and its settings; where it goes on with what is there, also what is not as it was."""
    from phfcli.core.runs.layout import is_run
    from phfcli.core.runs.run_folder import check_resumable, claim_folder, default_folder, saved_config
    from phfcli.core.settings import resolve_train

    folder = Path(settings.output_dir) if settings.output_dir else default_folder(settings)
    if resume and is_run(folder):
        settings = resolve_train([saved_config(folder), *sources])
        return folder, settings, check_resumable(folder, settings, force)
    if ranks.main:
        claim_folder(folder)
    return folder, settings, None


@contextmanager
def _stops_at_sigterm(trainer: "Trainer") -> Iterator[None]:
    """Within it SIGTERM, which schedulers send before they take a machine away, only asks the trainer to stop."""

    def ask(_number: int, _frame: object) -> None:
        trainer.stopping = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_end(trainer: "Trainer", last: "Metrics | None", json_: bool) -> None:
    folder = trainer.folder
    best = trainer.validation and trainer.validation.best
    result = {"run": str(folder), "step": trainer.step, "checkpoint": _newest(folder), "best": best, "metrics": last}
    if json_:
        print_json(result)
        return
    then = f"phf eval {folder}" if trainer.done else f"phf train --resume --output-dir {folder}"
    lines = f"run        {folder}\ncheckpoint {result['checkpoint']}"
    if best:
        lines += f"\nbest       {folder / 'best'}: step {best['step']}, {with_error(best['average'], best['stderr'])} %"
        if trainer.done and trainer.step < trainer.config.steps:
            lines += f"; stopped early after step {trainer.step}"
    lines += f"\nnext       {then}"
    result_console().print(lines, markup=False, soft_wrap=True)


def _tell_of_stop(trainer: "Trainer") -> None:
    at = f"step {trainer.step} of {trainer.config.steps}"
    typer.echo(f"phf: stopped by SIGTERM after {at}; --resume goes on from its checkpoint", err=True)


def _newest(folder: Path) -> str | None:
    from phfcli.core.runs.checkpoints import checkpoints_of

    found = checkpoints_of(folder)
    return str(found[-1][1]) if found else None
