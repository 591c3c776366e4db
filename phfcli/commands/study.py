"""phf study, and what it shows: the runs at work, those that are left, and the time they take."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import OUTPUT, AsJson, Quiet, names_of
from phfcli.commands.output import log_console, print_result, quiet_libraries, result_console, say, warn
from phfcli.core.errors import UserError, nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from phfcli.core.studies.schedule import Estimate, Schedule
    from phfcli.core.studies.study_file import Part, Study, StudyRun

_LOOK_EVERY_S = 5.0


def study(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The study's file.")],
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs at a time: one for each core, or group of GPUs.")
    ] = None,
    only: Annotated[str, typer.Option(metavar="NAME[,...]", help="Only these systems, and the base model.")] = "",
    seeds: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N seeds.")] = None,
    report_only: Annotated[
        bool,
        typer.Option("--report-only", help="Write the page from the records; run nothing.", rich_help_panel=OUTPUT),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check every run's settings and tell what is left.", rich_help_panel=OUTPUT),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Go on though model, data or code have changed.", rich_help_panel=OUTPUT),
    ] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate every system of a study, with every seed, and write its page.

    A study is a YAML file of models, systems, rates and seeds. What is finished is skipped and what was stopped goes
    on, so the same command may be given again and again; the page is written anew after each run.

    \b
    Examples:
      phf study studies/methods.yaml --dry-run  # what is left, and the hours it takes
      phf study studies/methods.yaml --jobs 2
      phf study studies/methods.yaml --only opsd,phf --seeds 1  # a part of it, also with --dry-run
      phf study studies/table-1.yaml --report-only
    """
    from phfcli.core.studies.schedule import estimate, examine, slots_for
    from phfcli.core.studies.study_file import Part, load_study

    for option, given in {"--only": only, "--seeds": seeds, "--jobs": jobs}.items():
        if report_only and given:
            raise UserError(f"--report-only: the page is of the whole study and nothing runs; leave out {option}")
    if report_only and dry_run:
        raise UserError("--report-only writes the page and --dry-run writes nothing; give one of them")
    plan = load_study(file)
    check_names(plan, only)
    part = Part(frozenset(names_of(only)), seeds)
    if dry_run:
        quiet_libraries()
        slots_for(plan, jobs)
        for gap in examine(plan, file, part):
            warn(f"not looked at: {gap}")
        show_estimate(plan, estimate(plan, part), jobs, json_)
        return
    from phfcli.core.studies.page import write_report

    failed: list[str] = []
    if not report_only:
        failed = run_watched(plan, part, file, jobs, log_console(quiet), force)
    page = write_report(plan, file)
    if json_:
        print_result({"page": str(page), "figures": str(page.with_suffix(".json")), "failed": failed})
    else:
        out = result_console()
        say(out, f"page       {page}")
        for log in failed:
            say(out, f"failed     see {log}")
    if failed:
        raise typer.Exit(1)


def check_names(plan: "Study", only: str) -> None:
    """Raises UserError for a name that is none of the study's systems."""
    for name in names_of(only):
        if name not in plan.systems:
            raise UserError(f"--only: the study has no system {name!r}; {nearest(name, plan.systems)}")


def show_estimate(study: "Study", left: "Estimate", jobs: int | None, json_: bool) -> None:
    """Prints the runs and hours that a study, or a part of it, still takes."""
    if json_:
        print_result({"runs": left.runs, "steps": left.steps, "evaluations": left.samplings, "job_hours": left.hours})
        return
    out = result_console()
    models = ", ".join(study.models)
    say(out, f"study      {study.title}")
    out.print(f"of         {models}: {len(study.systems)} systems, {len(study.benches)} benchmarks", markup=False)
    out.print(
        f"left       {left.runs} runs, {left.steps:,} steps, {left.samplings} checkpoints to evaluate", markup=False
    )
    say(out, f"time       {_hours(left, jobs)}")


def _hours(left: "Estimate", jobs: int | None) -> str:
    if not left.runs:
        return "nothing is left"
    if left.hours is None:
        return "not known before a step has been measured: start the study, and ask again"
    several = f", {left.hours / jobs:.1f} of {jobs}" if jobs else ""
    return f"{left.hours:.1f} hours of one job{several}; runs that were not measured are taken to cost what others do"


def run_watched(
    study: "Study", part: "Part", file: Path, jobs: int | None, log: "Console", force: bool = False
) -> list[str]:
    """Runs a part of a study with a live table; returns the logs of the runs that failed."""
    from rich.live import Live

    from phfcli.core.storage.files import writing_alone
    from phfcli.core.studies.page import write_report
    from phfcli.core.studies.record import finished
    from phfcli.core.studies.schedule import Schedule, log_of, slots_for

    folder = Path(study.folder)
    folder.mkdir(parents=True, exist_ok=True)

    def on_end(run: "StudyRun") -> None:
        write_report(study, file)
        state = "failed" if run in schedule.failed else "finished" if finished(run) else "stopped"
        say(log, f"{run.name} {state}")

    schedule = Schedule(study, part, slots_for(study, jobs), on_end, force)
    with (
        writing_alone(folder / "lock", f"{folder}: another study is at work there; wait for it or stop it"),
        Live(console=log, auto_refresh=False, transient=True) as live,
        _repeating(lambda: live.update(_table(schedule), refresh=log.is_terminal)),
    ):
        schedule.run()
    return [str(log_of(run)) for run in schedule.failed]


@contextmanager
def _repeating(function: Callable[[], None]) -> Iterator[None]:
    """Calls a function every few seconds while the context lasts."""
    end = threading.Event()

    def loop() -> None:
        while not end.wait(_LOOK_EVERY_S):
            function()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _table(schedule: "Schedule") -> "Table":
    """A row for each run at work; the title tells what is left."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from phfcli.core.studies.schedule import estimate, steps_done

    left = estimate(schedule.study, schedule.part)
    hours = "" if left.hours is None else f", {left.hours / schedule.jobs:.1f} hours"
    table = Table(title=f"{left.runs} runs left{hours}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("at work", "step", "for"):
        table.add_column(column, justify="left" if column == "at work" else "right")
    for run, since in list(schedule.at_work.values()):
        lasted = timedelta(seconds=round(time.monotonic() - since))
        table.add_row(escape(run.name), f"{steps_done(run)} of {run.evaluated[-1]}", str(lasted))
    return table
