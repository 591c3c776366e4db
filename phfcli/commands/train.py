"""phf train."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.common import AsJson, Configs, Quiet, Sets, quiet_libraries, settings_given
from phfcli.commands.dry_run import show_plan
from phfcli.commands.running import run
from phfcli.core.errors import UserError
from phfcli.core.names import ENGINES, OBJECTIVES, TEACHERS, TRACKERS
from phfcli.core.storage.child_processes import end_with_parent


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
        show_plan(settings, json_, processes or 1, tokens_per_s)
        return
    if tokens_per_s is not None:
        raise UserError("--tokens-per-s: only with --dry-run, which makes steps an hour of it")
    if _to_be_launched(processes):
        sys.exit(_launch(processes or 1))  # one of them has told what there was to tell
    quiet_libraries()
    from phfcli.core.training.distributed import joined

    with joined(settings.device) as ranks:
        run(settings, sources, resume, force, json_, quiet, ranks)


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--teacher-prompt {path}: cannot be read: {error}") from None


def _to_be_launched(processes: int | None) -> bool:
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
