"""A study: `python benchmarks/study/run.py [STUDY.yaml]`, or `make study`.

Each run is `phf train --resume`, then `phf eval` of its checkpoints, in processes of one thread; two runs are at work
side by side. The processes are forked from one that has loaded the libraries, which takes as long as ten steps. What is
finished is skipped and what was stopped goes on, so the same command may be given again and again. After each run the
report is written anew, from the files of the runs alone. Ctrl-C and SIGTERM let the runs at work save a checkpoint
first.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import typer
from plan import Study, StudyRun, load_study, runs_of
from report import write_report
from rich.console import Console

from phfcli.cli import main as phf
from phfcli.core.errors import UserError
from phfcli.core.runs.layout import step_name

STUDY, REPORT = Path(__file__).with_name("study.yaml"), Path("docs/STUDY.md")

_forks = get_context("forkserver")
_at_work: set[BaseProcess] = set()

out = Console(highlight=False, soft_wrap=True)


def main(
    file: Annotated[Path, typer.Argument(help="The study.")] = STUDY,
    report: Annotated[Path, typer.Option(help="The page; beside it go a .json and a .png of its name.")] = REPORT,
    jobs: Annotated[int, typer.Option(help="Runs side by side.")] = 2,
    seeds: Annotated[int | None, typer.Option(help="Only so many seeds.")] = None,
    steps: Annotated[str | None, typer.Option(help="Other steps, such as 2,4: to try it.")] = None,
    only: Annotated[str | None, typer.Option(help="Only these systems.")] = None,
    folder: Annotated[str | None, typer.Option(help="Where the runs go.")] = None,
    report_only: Annotated[bool, typer.Option("--report-only", help="Of what is there.")] = False,
) -> None:
    """Train, evaluate, report; go on where it was stopped."""
    try:
        study = _changed(load_study(file), seeds, steps, only, folder)
    except UserError as error:
        out.print(f"study: {error}", markup=False)
        raise typer.Exit(2) from None
    failed = [] if report_only else _run_all(study, report, jobs)
    write_report(study, report)
    out.print(f"report     {report}")
    for run in failed:
        out.print(f"FAILED     {run.folder}: see {run.folder}.log")
    if failed:
        raise typer.Exit(1)


def _changed(study: Study, seeds: int | None, steps: str | None, only: str | None, folder: str | None) -> Study:
    changes: dict[str, object] = {}
    if seeds is not None:
        changes["seeds"] = seeds
    if steps is not None:
        changes["steps"] = tuple(int(step) for step in steps.split(","))
    if only is not None:
        if unknown := set(only.split(",")) - set(study.systems):
            raise UserError(f"--only {only}: the study has no {', '.join(sorted(unknown))}")
        changes["systems"] = {name: study.systems[name] for name in only.split(",")}
    if folder is not None:
        changes["folder"] = folder
    return study.model_copy(update=changes)


def _run_all(study: Study, report: Path, jobs: int) -> list[StudyRun]:
    """Returns the runs that failed; a failed one leaves the others alone."""
    todo = [run for run in runs_of(study) if not run.finished]
    out.print(f"{len(runs_of(study)) - len(todo)} runs are finished, {len(todo)} to do")
    reporting, failed = threading.Lock(), []

    def work(run: StudyRun) -> None:
        started = time.monotonic()
        if not _make(run):
            failed.append(run)
        with reporting:
            out.print(f"{run.folder}: {time.monotonic() - started:.0f} s")
            write_report(study, report)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(work, todo))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_at_work):
                process.terminate()
            raise
    return failed


def _make(run: StudyRun) -> bool:
    """Trains and evaluates; what the commands say goes to a log beside its folder. False if one of them failed."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.parent / f"{run.folder.name}.log"
    study, last = run.study, run.study.steps[-1]
    common = ["--engine", study.engine, "--seed", str(run.seed)]
    commands = []
    if run.system is not None:
        system = study.systems[run.system]
        every = study.steps[0]
        options = ["--model", study.model, "--steps", str(last), "--checkpoint-every", str(every), "--resume"]
        commands.append(["train", *options, *study.options, *system.options, *common])
    for step in run.steps:
        target = str(run.folder / "checkpoints" / step_name(step)) if step else study.model
        if not run.summary(step).is_file():
            commands.append(["eval", target, "--bench", study.bench, "--n", str(study.samples), *common])
    return all(_phf(command, run.folder, log) for command in commands)


def _phf(command: list[str], folder: Path, log: Path) -> bool:
    arguments = ["phf", *command, "--output-dir", str(folder), "--quiet"]
    process = _forks.Process(target=_command, args=(arguments, log))
    process.start()
    _at_work.add(process)
    process.join()
    _at_work.discard(process)
    return process.exitcode == 0


def _command(arguments: list[str], log: Path) -> None:
    """What the program `phf` would do, in this fresh process; the log gets what it says."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[:] = arguments
    phf()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    _forks.set_forkserver_preload(
        [
            "__main__",
            "transformers.models.qwen3.modeling_qwen3",
            "phfcli.core.training.setup",
            "phfcli.core.evaluation.evaluate",
        ]
    )
    typer.run(main)
