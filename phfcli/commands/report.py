"""phf report."""

from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Quiet, file_option
from phfcli.commands.output import print_result, result_console, say


def report(
    runs: Annotated[list[str], typer.Argument(metavar="[NAME=]RUN...", help="Runs, or evaluated models' folders.")],
    output: Annotated[Path, file_option("The page.", "--output", "-o", endings=[".html"], panel=None)] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option(metavar="TEXT", help="The title of the page; else the runs' names.")] = "",
    unequal: Annotated[bool, typer.Option("--unequal", help="Compare even where prompts or sampling differ.")] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a whole study on one page that needs no network: results, curves, hidden flow, every problem, settings.

    \b
    Examples:
      phf report runs/embedded runs/opsd-embedded-seed0 runs/phf-embedded-seed0
      phf report base=runs/embedded runs/opsd-* runs/phf-* -o study/report.html --title "OPSD and PHF"
    \b
    Links to samples are relative to the page: move it together with the runs.
    """
    from phfcli.core.reporting.report_page import write_report

    write_report(output, runs, title, unequal)
    if json_:
        print_result({"report": str(output), "bytes": output.stat().st_size})
    elif not quiet:
        size = output.stat().st_size / 2**20
        say(result_console(), f"report     {output} ({size:.1f} MiB)")
