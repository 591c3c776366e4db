"""phf train, and what it shows: a live table on a terminal, a line every few steps, and the result."""

import os
import signal
import sys
import time
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.dry_run import show_plan
from phfcli.commands.exit_codes import Told
from phfcli.commands.options import (
    OUTPUT,
    TRAINING,
    Alpha,
    AsJson,
    BatchSize,
    CheckpointEvery,
    Configs,
    Data,
    EvalBench,
    EvalEvery,
    Keep,
    LearningRate,
    Model,
    Objective,
    OutputDir,
    Patience,
    Quiet,
    ReportTo,
    RolloutEngine,
    Seed,
    Sets,
    Setting,
    Steps,
    Teacher,
    TokensPerS,
    settings_given,
)
from phfcli.commands.output import GLUE, log_console, print_result, quiet_libraries, result_console, say, warn
from phfcli.core.errors import UserError, percent, with_error
from phfcli.core.step_metrics import SHARES
from phfcli.core.storage.child_processes import end_with_parent
from phfcli.core.storage.files import read_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from phfcli.core.settings import Source
    from phfcli.core.training.metrics import Metrics
    from phfcli.core.training.start import Resume, Running
    from phfcli.core.training.trainer import Trainer
    from phfcli.core.training.validation import ValidationResult

MUST_RESUME = "--must-resume"  # what `cli.py` makes of --resume=must: Typer has no option with a value or without
_LINE_EVERY = 10  # steps
_TABLE_ROWS = 7
_PAIR_WIDTH = 34  # of a name and its value in the table
_IN_A_LINE = {
    "loss": "loss",
    "divergence": "",  # shown under the name of its kind
    "flow": "flow",
    "reverse_kl": "kl",
    "pointwise": "pointwise",
    "state_cosine": "cos",
    "clip_share": "clipped",
    "entropy": "entropy",
    "reward": "reward",
    "flat_groups": "flat",
    "loops": "looped",
}


def _read_template(path: Path) -> str:
    try:
        return read_text(path)
    except UserError as error:
        raise UserError(f"--teacher-prompt {error}") from None


def train(
    model: Model = None,
    data: Data = None,
    objective: Objective = None,
    alpha: Alpha = None,
    teacher: Teacher = None,
    teacher_prompt: Annotated[
        Path | None,
        Setting("prompt.teacher", _read_template),
        typer.Option(
            metavar="FILE",
            help="The teacher's template, with {problem} and {solution}.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    engine: RolloutEngine = None,
    steps: Steps = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Train in N processes on this machine, a GPU each.", rich_help_panel=TRAINING
        ),
    ] = None,
    eval_every: EvalEvery = None,
    eval_bench: EvalBench = None,
    patience: Patience = None,
    output_dir: OutputDir = None,
    checkpoint_every: CheckpointEvery = None,
    keep: Keep = None,
    report_to: ReportTo = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in the output folder, or begin it; --resume=must refuses to begin one.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    must_resume: Annotated[bool, typer.Option(MUST_RESUME, hidden=True)] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --resume: go on under other settings too.", rich_help_panel=OUTPUT),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, prompts and memory; load no weights.", rich_help_panel=OUTPUT),
    ] = False,
    tokens_per_s: TokensPerS = None,
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
      phf train --eval-every 25 --patience 2  # RUN/best then leads to the best checkpoint
      phf train --set tuning=full --set optim.lr=1e-6  # all weights, no adapter
      phf train --model Qwen/Qwen3-4B --processes 8  # eight GPUs of this machine
      torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
          -m phfcli train --model Qwen/Qwen3-4B  # on each of two machines; or `accelerate launch -m phfcli train`
    \b
    SIGTERM and Ctrl-C end a run after its present step, with a checkpoint and exit code 143 or 130. A second Ctrl-C
    ends it at once.
    """
    sources = settings_given(train, locals())
    from phfcli.core.settings import resolve_train, train_origins

    settings = resolve_train(sources)
    if dry_run:
        show_plan(settings, train_origins(sources), json_, processes or 1, tokens_per_s)
        return
    if tokens_per_s is not None:
        raise UserError("--tokens-per-s: only with --dry-run, which predicts steps per hour from it")
    if _starts_others(processes):
        sys.exit(_launch(processes or 1))  # rank 0 has printed the results
    quiet_libraries()
    _run(sources, "must" if must_resume else resume, force, json_, quiet)


def _run(sources: "list[Source]", resume: "Resume", force: bool, json_: bool, quiet: bool) -> None:
    """Starts or goes on with a run in this process, which may be one of several, and shows it to its end."""
    from phfcli.core.training.start import running

    log = log_console(quiet)

    def tell(line: str) -> None:
        say(log, line)

    with running(sources, resume, force, warn, tell) as run:
        trainer = run.trainer
        last = watch(run, log_console(quiet or not trainer.ranks.main))
        if trainer.ranks.main:
            show_end(trainer, last, json_)
            if not trainer.done:
                show_stop(run)
    if not trainer.done:  # as a shell reports it: whoever waits for the run must not take it for a finished one
        raise typer.Exit(Told(128 + _stopped_by(run)))


def watch(run: "Running", log: "Console") -> "Metrics | None":
    """Runs the training and shows each step; returns the metrics of the last step, or None if no step was left."""
    from rich.live import Live

    trainer, last = run.trainer, None
    started, first, steps = time.monotonic(), trainer.step, trainer.config.steps
    # off a terminal the table is not printed; with --quiet warnings must still reach stderr
    with Live(console=log, auto_refresh=False, transient=True, redirect_stderr=not log.quiet) as live:
        for last in run.steps():
            alarms, scores = last.pop("alarms", []), last.pop("evaluation", None)
            step = last["step"]
            if scores:
                say(log, evaluation_line(scores, step))
                last |= {"average": scores["average"]}
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / (step - first) * (steps - step)
            live.update(step_table(last, steps, left_s, log.width), refresh=True)
            if step in (1, steps) or step % _LINE_EVERY == 0:
                line = step_line(last, trainer.objective.needs.divergence, steps)
                say(log, f"{line}  {_clock(elapsed_s)}{GLUE}elapsed  {_clock(left_s)}{GLUE}left")
            for alarm in alarms if trainer.ranks.main else ():
                warn(alarm["sentence"], log)
    return last


def _clock(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def step_line(metrics: "Metrics", divergence: str | None, steps: int | None = None) -> str:
    """The most important metrics of a step, and all that a user's own objective has logged; `say` prints the line.

    Args:
        divergence: the kind of the metric `divergence`, where it is known.
        steps: the last step of a run that is at work.
    """
    from phfcli.core.step_metrics import own_metrics

    own = {name: name for name in own_metrics([[metrics]])}
    labels = _IN_A_LINE | {"divergence": divergence or "divergence"} | own
    terms = [
        f"{label} {f'{percent(metrics[name])} %' if name in SHARES else f'{metrics[name]:.4f}'}"
        for name, label in labels.items()
        if name in metrics and (name != "loops" or metrics[name])
    ]
    sizes = f"grad {metrics['grad_norm']:.3f}", f"len {metrics['rollout_tokens']:.0f}"
    text = "  ".join(term.replace(" ", GLUE) for term in (*terms, *sizes, f"{metrics['tokens_per_s']:.0f} tok/s"))
    return f"step {metrics['step']:>4}{f'/{steps}' if steps else ''}  {text}"


def evaluation_line(scores: "ValidationResult", step: int) -> str:
    """The result of an evaluation during training, in a line."""
    average = with_error(scores["average"], scores["stderr"])
    return f"step {step:>4}  {scores['bench']} {average} %  ({scores['problems']} problems x {scores['n']})"


def step_table(metrics: "Metrics", steps: int, left_s: float, width: int = 120) -> "Table":
    """Every number of a step in columns, under a title with the progress and the time left."""
    from rich import box
    from rich.table import Table

    title = f"step {metrics['step']} of {steps}, {_clock(left_s)} left"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    cells = [_cells(name, value) for name, value in metrics.items() if name != "step" and not isinstance(value, list)]
    rows = max(_TABLE_ROWS, -(-len(cells) // max(1, width // _PAIR_WIDTH)))
    columns = [cells[first : first + rows] for first in range(0, len(cells), rows)]
    for _ in columns:
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for row in zip_longest(*columns, fillvalue=("", "")):
        table.add_row(*(text for cell in row for text in cell))
    return table


def _cells(name: str, value: float) -> tuple[str, str]:
    """A metric's name and its value, in the words and units that people read."""
    if name == "average" or name in SHARES:
        return name.replace("_", " "), f"{percent(value)} %"
    if name.endswith("_bytes"):
        return name.removesuffix("_bytes").replace("_", " "), f"{value / 2**20:,.0f} MiB"
    return name.replace("_per_s", "/s").replace("_", " "), f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def show_end(trainer: "Trainer", last: "Metrics | None", json_: bool) -> None:
    """Prints the run, its newest and best checkpoint, and the next command."""
    folder = trainer.folder
    best = trainer.validation and trainer.validation.best
    result = {"run": str(folder), "step": trainer.step, "checkpoint": _newest(folder), "best": best, "metrics": last}
    if json_:
        print_result(result)
        return
    following = f"phf eval {folder}" if trainer.done else f"phf train --resume --output-dir {folder}"
    lines = f"run        {folder}\ncheckpoint {result['checkpoint']}"
    if best:
        lines += f"\nbest       {folder / 'best'}: step {best['step']}, {with_error(best['average'], best['stderr'])} %"
        if trainer.done and trainer.step < trainer.config.steps:
            lines += f"; stopped early after step {trainer.step}"
    lines += f"\nnext       {following}"
    say(result_console(), lines)


def _newest(folder: Path) -> str | None:
    from phfcli.core.runs.folder import checkpoints_of

    checkpoints = checkpoints_of(folder)
    return str(checkpoints[-1][1]) if checkpoints else None


def _stopped_by(run: "Running") -> signal.Signals:
    """The signal that has stopped a run; another process of it may have got it."""
    return run.stopped_by[0] if run.stopped_by else signal.SIGTERM


def show_stop(run: "Running") -> None:
    """Says what has stopped the run, and after which step."""
    number, at = _stopped_by(run), f"step {run.trainer.step} of {run.trainer.config.steps}"
    what = "Ctrl-C" if number == signal.SIGINT else number.name
    typer.echo(f"phf: stopped by {what} after {at}; --resume goes on from its checkpoint", err=True)


def _starts_others(processes: int | None) -> bool:
    """Whether this process starts the training processes, rather than train itself."""
    from phfcli.core.training.ranks import launched_here

    if launched_here():
        end_with_parent()
        return False
    if processes is not None and "WORLD_SIZE" in os.environ:
        raise UserError(
            "--processes: a launcher has started this process already (WORLD_SIZE is set); leave the option out"
        )
    return (processes or 1) > 1


def _launch(processes: int) -> int:
    from phfcli.core.training.ranks import launch

    return launch(processes, sys.argv[1:])
