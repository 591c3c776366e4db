"""phf train."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from phfcli.commands.output import log_console, quiet_libraries, say, warn
from phfcli.commands.views.dry_run import show_plan
from phfcli.commands.views.training import show_end, show_stop, watch
from phfcli.core.errors import UserError
from phfcli.core.storage.child_processes import end_with_parent

if TYPE_CHECKING:
    from phfcli.core.settings import Source

_TERMINATED = 143  # by SIGTERM, as a shell reports it: whoever waits for the run must not take it for a finished one


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--teacher-prompt {path}: cannot be read: {error}") from None


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
        bool, typer.Option("--resume", help="Go on with the run in the output folder.", rich_help_panel=OUTPUT)
    ] = False,
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
    SIGTERM ends a run after its present step, with a checkpoint and exit code 143.
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
        sys.exit(_launch(processes or 1))  # one of them has said what there was to say
    quiet_libraries()
    _run(sources, resume, force, json_, quiet)


def _run(sources: "list[Source]", resume: bool, force: bool, json_: bool, quiet: bool) -> None:
    """Starts or goes on with a run in this process, which may be one of several, and shows it to its end."""
    from phfcli.core.reporting.health.training_findings import training_findings
    from phfcli.core.training.start import running

    log = log_console(quiet)

    def tell(line: str) -> None:
        say(log, line)

    with running(sources, resume, force, warn, tell, training_findings) as run:
        trainer = run.trainer
        last = watch(run, log_console(quiet or not trainer.ranks.main))
        if trainer.ranks.main:
            show_end(trainer, last, json_)
            if not trainer.done:
                show_stop(trainer)
    if not trainer.done:
        raise typer.Exit(_TERMINATED)


def _starts_others(processes: int | None) -> bool:
    """Whether this process is to start others, rather than to train itself."""
    from phfcli.core.training.launch import launched_here

    if launched_here():
        end_with_parent()
        return False
    if processes is not None and "WORLD_SIZE" in os.environ:
        raise UserError("--processes: this is a launcher's process already (WORLD_SIZE is set); leave the option out")
    return (processes or 1) > 1


def _launch(processes: int) -> int:
    from phfcli.core.training.launch import launch

    return launch(processes, sys.argv[1:])
