"""phf study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import OUTPUT, AsJson, Quiet, names_of
from phfcli.commands.output import log_console, print_json, result_console, say
from phfcli.core.errors import UserError, nearest

if TYPE_CHECKING:
    from phfcli.core.studies.plan import Study


def study(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The study.")],
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
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate every system of a study, with every seed, and write its page.

    A study is a YAML file of models, systems, rates and seeds. What is finished is skipped and what was stopped goes
    on, so the same command may be given again and again; the page is written anew after each run.

    \b
    Examples:
      phf study studies/embedded.yaml --dry-run  # what is left, and the hours it takes
      phf study studies/embedded.yaml --jobs 2
      phf study studies/embedded.yaml --only opsd,phf --seeds 1  # a part of it, also with --dry-run
      phf study studies/table-1.yaml --report-only
    """
    from phfcli.core.studies.estimate import estimate
    from phfcli.core.studies.plan import Part, load_study

    for option, given in {"--only": only, "--seeds": seeds, "--jobs": jobs}.items():
        if report_only and given:
            raise UserError(f"--report-only: the page is of the whole study and nothing runs; leave out {option}")
    if report_only and dry_run:
        raise UserError("--report-only writes the page and --dry-run writes nothing; give one of them")
    plan = load_study(file)
    check_names(plan, only)
    part = Part(frozenset(names_of(only)), seeds)
    if dry_run:
        from phfcli.commands.views.study import show_estimate

        show_estimate(plan, estimate(plan, part), jobs, json_)
        return
    from phfcli.core.studies.report import write_report

    failed: list[str] = []
    if not report_only:
        from phfcli.commands.views.study import run_watched

        failed = run_watched(plan, part, file, jobs, log_console(quiet))
    page = write_report(plan, file)
    if json_:
        print_json({"page": str(page), "figures": str(page.with_suffix(".json")), "failed": failed})
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
