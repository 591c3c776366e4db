"""phf train."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phfcli.commands.common import (
    AsJson,
    Configs,
    Quiet,
    Sets,
    log_console,
    print_json,
    quiet_libraries,
    result_console,
    settings_given,
    warn,
    with_error,
)
from phfcli.commands.watch import watch
from phfcli.core.children import end_with_parent
from phfcli.core.errors import UserError
from phfcli.core.names import ENGINES, OBJECTIVES, TEACHERS, TRACKERS

if TYPE_CHECKING:
    from phfcli.core.config import TrainConfig
    from phfcli.core.distributed import Ranks
    from phfcli.core.loop import Trainer
    from phfcli.core.meters import Metrics
    from phfcli.core.trackers import Report

_TERMINATED = 143  # by SIGTERM, as a shell reports it: whoever waits for the run must not take it for a finished one


def _objectives(incomplete: str) -> list[str]:
    return [name for name in OBJECTIVES if name.startswith(incomplete)]


def train(
    model: Annotated[
        str | None, typer.Option(metavar="ID|DIR", help="Hub id, folder, or 'embedded' (default).")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="ID|FILE", help="Problems with reference solutions: hub id, file, 'embedded'.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(metavar="NAME", help=", ".join(OBJECTIVES), autocompletion=_objectives)
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the hidden-flow term (0.05).")] = None,
    teacher: Annotated[str | None, typer.Option(metavar="KIND", help=", ".join(TEACHERS))] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help=f"Rollouts by: {', '.join(ENGINES)}.")] = None,
    steps: Annotated[int | None, typer.Option(help="The last step (100); the schedule's horizon is its own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the adapter, the order and the rollouts (0).")] = None,
    output_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="runs/OBJECTIVE-MODEL-seedN if not given.")
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints (25).")] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train in N processes on this machine, a GPU each.")
    ] = None,
    eval_every: Annotated[int | None, typer.Option(metavar="K", help="Evaluate, and save, every K steps.")] = None,
    eval_bench: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="... on this: 4 samples of its first 64 problems.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(metavar="P", help="End after P evaluations without a better one.")
    ] = None,
    report_to: Annotated[
        str | None, typer.Option(metavar="NAME[,...]", help=f"Trackers: {', '.join(TRACKERS)}.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Keep the newest so many checkpoints (all).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="... also with other settings than it had.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, prompts and memory; load no weights.")
    ] = False,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(metavar="X", min=1e-9, help="For --dry-run: a run's tokens_per_s, to tell steps an hour."),
    ] = None,
    teacher_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The teacher's template, with {problem} and {solution}.")
    ] = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on its own rollouts, with itself as the privileged teacher.

    \b
    Examples:
      phf train  # PHF on the embedded model and problems
      phf train --objective opsd --seed 1 --output-dir runs/opsd
      phf train --model Qwen/Qwen3-4B --alpha 0.05  # the published recipe
      phf train --config qwen3-4b --set optim.lr=1e-5 --dry-run
      phf train --objective opd --teacher external --set teacher.model=Qwen/Qwen3-8B --model Qwen/Qwen3-4B
      phf train --resume --output-dir runs/opsd
      phf train --eval-every 25 --patience 2  # on problems apart; runs/.../best leads to the best checkpoint
      phf train --set tuning=full --set optim.lr=1e-6  # all weights, no adapter
      phf train --model Qwen/Qwen3-4B --processes 8  # eight GPUs of this machine
      torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
          -m phfcli train --model Qwen/Qwen3-4B  # on each of two machines; or `accelerate launch -m phfcli train`
    \b
    SIGTERM ends a run after its present step, with a checkpoint and exit code 143.
    """
    options = [
        ("--model", "model", model),
        ("--data", "data", data),
        ("--objective", "objective", objective),
        ("--alpha", "flow.alpha", alpha),
        ("--teacher", "teacher.kind", teacher),
        ("--engine", "rollout.engine", engine),
        ("--steps", "steps", steps),
        ("--seed", "seed", seed),
        ("--output-dir", "output_dir", output_dir),
        ("--checkpoint-every", "checkpoint_every", checkpoint_every),
        ("--keep", "keep", keep),
        ("--teacher-prompt", "prompt.teacher", teacher_prompt and _read_template(teacher_prompt)),
        ("--report-to", "report_to", [name for name in report_to.split(",") if name] if report_to else None),
        ("--eval-every", "evaluation.every", eval_every),
        ("--eval-bench", "evaluation.bench", eval_bench),
        ("--patience", "evaluation.patience", patience),
    ]
    from phfcli.core.settings import resolve_train

    sources = settings_given(config, set_, options)
    settings = resolve_train(sources)
    if dry_run:
        _show_plan(settings, json_, processes or 1, tokens_per_s)
        return
    if tokens_per_s is not None:
        raise UserError("--tokens-per-s: only with --dry-run, which makes steps an hour of it")
    if _to_be_launched(processes):
        sys.exit(_launch(processes or 1))  # one of them has told what there was to tell
    quiet_libraries()
    from phfcli.core.distributed import joined

    with joined(settings.device) as ranks:
        _run(settings, sources, resume, force, json_, quiet, ranks)


def _read_template(path: Path) -> str:
    from phfcli.core.errors import UserError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--teacher-prompt {path}: cannot be read: {error}") from None


def _to_be_launched(processes: int | None) -> bool:
    """Whether this process is to start others, rather than to train itself."""
    from phfcli.core.launch import launched_here

    if launched_here():
        end_with_parent()
        return False
    if processes is not None and "WORLD_SIZE" in os.environ:
        raise UserError("--processes: this is a launcher's process already (WORLD_SIZE is set); leave the option out")
    return (processes or 1) > 1


def _launch(processes: int) -> int:
    from phfcli.core.launch import launch

    return launch(processes, sys.argv[1:])


def _run(
    settings: "TrainConfig", sources: list[Any], resume: bool, force: bool, json_: bool, quiet: bool, ranks: "Ranks"
) -> None:
    from phfcli.core.setup import build_trainer

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
    from phfcli.core.runs import note_settings
    from phfcli.core.saving import resume

    resume(trainer, warn)
    if changes and trainer.ranks.main:
        warn(f"forced from step {trainer.step} on: {'; '.join(changes)}")
        note_settings(trainer.folder, trainer.config)


def _reporting(trainer: "Trainer") -> "AbstractContextManager[Report]":
    from phfcli.core.trackers import reporting

    config = trainer.config if trainer.ranks.main else trainer.config.model_copy(update={"report_to": ()})
    return reporting(config, trainer.folder, trainer.step)


def _open(
    settings: "TrainConfig", sources: list[Any], resume: bool, force: bool, ranks: "Ranks"
) -> tuple[Path, "TrainConfig", list[str] | None]:
    """The run's folder and its settings; where it goes on with what is there, also what is not as it was."""
    from phfcli.core.resources import is_run
    from phfcli.core.runs import check_resumable, claim_folder, default_folder, saved_config
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
    from phfcli.core.checkpoints import checkpoints_of

    found = checkpoints_of(folder)
    return str(found[-1][1]) if found else None


def _show_plan(settings: "TrainConfig", json_: bool, processes: int, tokens_per_s: float | None) -> None:
    from rich.markup import escape

    from phfcli.core.plan import plan_run
    from phfcli.core.settings import write_yaml

    quiet_libraries()
    out = result_console()
    plan = plan_run(settings, processes, tokens_per_s)
    if json_:
        print_json({"settings": settings.model_dump(mode="json"), **plan.as_json()})
        return
    out.print(f"[bold]settings[/]\n{escape(write_yaml(settings))}")
    for who, prompt in plan.prompts.items():
        out.print(f"[bold]{who}, first problem[/]\n{escape(prompt)}\n")
    if plan.memory:
        out.print(f'[bold]memory of a process at its peak, in the phase "{plan.memory.peak_phase}"[/]')
        for name, size in plan.memory.at_peak().items():
            out.print(f"  {name:<24}{size / 2**20:12,.1f} MiB")
    if plan.steps_per_hour is not None:
        out.print(f"[bold]steps an hour[/], every completion as long as it may be: {plan.steps_per_hour:,.1f}")
    if plan.gaps:
        warn(f"not all can be shown: {'; '.join(plan.gaps)}")
