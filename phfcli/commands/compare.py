"""phf compare."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import AsJson, Csv, Plot, Quiet, completing, file_option, names_of
from phfcli.commands.output import print_result, print_table, result_console, say, warn
from phfcli.core.errors import UserError, one_of, printable
from phfcli.core.names import UNITS, VIEWS

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.compare import Pair

_NOT_MET = 3  # exit code: a condition of --fail-below or --at-least-as-good-as does not hold


def compare(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN|CHECKPOINT|SUMMARY...",
            help="Evaluated runs, checkpoints or summaries; seeds are grouped.",
        ),
    ],
    bench: Annotated[str, typer.Option(metavar="NAME[,...]", help="Only these benchmarks.")] = "",
    view: Annotated[
        str, typer.Option("--view", metavar="KIND", help=", ".join(VIEWS), autocompletion=completing(lambda: VIEWS))
    ] = "runs",
    changed: Annotated[
        int, typer.Option(min=0, metavar="N", help="List up to N problems that each pair gains and loses.")
    ] = 0,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="seeds|problems",
            help="Whether intervals are over seeds or problems; seeds where both sides have several.",
        ),
    ] = None,
    unequal: Annotated[bool, typer.Option("--unequal", help="Compare even where prompts or sampling differ.")] = False,
    fail_below: Annotated[
        float | None,
        typer.Option("--fail-below", min=0, max=100, metavar="X", help="Exit code 3 if an average is below X percent."),
    ] = None,
    at_least_as_good_as: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Exit code 3 unless every other method is shown to be no worse than RUN."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="M", help="By how many points it may be worse, at most."),
    ] = None,
    plot: Plot = None,
    markdown: Annotated[Path | None, file_option("Write the tables as Markdown.")] = None,
    latex: Annotated[Path | None, file_option("Write the tables as LaTeX (booktabs).")] = None,
    csv: Csv = None,
    samples: Annotated[
        Path | None,
        file_option("Write a page of both runs' samples, side by side.", endings=[".html"], metavar="FILE.html"),
    ] = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare evaluations: Average@n side by side, and each difference with its interval, paired by problem.

    \b
    Views: runs, every evaluation; methods, the paper's Table 1, seeds pooled; ablations, its Table 2;
    dynamics, its Figure 2, from the evaluations of a run's checkpoints.
    --unit seeds: would another training differ? --unit problems: would these checkpoints, on other problems?
    Rules name the kind of gain that a difference is; the output shows each rule with its figures.
    --samples shows each problem once, with the samples of two runs beside each other.
    --fail-below and --at-least-as-good-as are for CI: the exit code is 3 where the condition does not hold. No worse
    means that the whole 95% interval of the difference lies above -M.
    --csv writes the differences as well, in a file beside it whose name ends in -pairs.csv.
    \b
    Examples:
      phf compare runs/embedded runs/opsd-embedded-seed0 runs/phf-embedded-seed0
      phf compare runs/opsd runs/phf --bench aime24,aime25 --plot table.png --markdown table.md
      phf compare OPSD=runs/opsd-0 OPSD=runs/opsd-1 PHF=runs/phf-0 PHF=runs/phf-1 --view methods --latex table.tex
      phf compare runs/opsd runs/phf --view dynamics --plot dynamics.png
      phf compare runs/phf/checkpoints/step-000050 runs/phf --changed 5
      phf compare runs/embedded runs/phf-embedded-seed0 --samples samples.html
      phf compare runs/phf --at-least-as-good-as runs/opsd --margin 2 --fail-below 50
    """
    view_name = one_of("--view", view, VIEWS)
    over = None if unit is None else one_of("--unit", unit, UNITS)
    if (at_least_as_good_as is None) != (margin is None):
        raise UserError("--at-least-as-good-as and --margin belong together: give both")
    from phfcli.core.analysis.compare import compare as core
    from phfcli.core.analysis.compare import gates
    from phfcli.core.evaluation.saved_evaluations import load_evaluations
    from phfcli.core.reporting.comparison_files import write_comparison
    from phfcli.core.reporting.tables import gain_sentences, view_of

    all_steps = view_name == "dynamics"
    yardstick = at_least_as_good_as
    if all_steps and (yardstick is not None or fail_below is not None):
        raise UserError("--view dynamics mixes checkpoints: leave --at-least-as-good-as and --fail-below out")
    evaluations = load_evaluations(paths, names_of(bench), all_steps=all_steps)
    folders = {e.folder for e in load_evaluations([yardstick], names_of(bench))} if yardstick else set()
    if yardstick and not folders <= {e.folder for e in evaluations}:
        evaluations = load_evaluations([*paths, yardstick], names_of(bench))
    comparison = core(evaluations, unequal, not all_steps, over)
    asked = gates(comparison, None if fail_below is None else fail_below / 100, folders, margin and margin / 100)
    failed = not all(gate.passed for gate in asked)
    shown = view_of(view_name, comparison)
    written = write_comparison(view_name, shown, comparison, plot, markdown, latex, csv, samples)
    for note in comparison.notes if not quiet else []:
        warn(note)
    if json_:
        files = {what: str(path) for what, path in written.items()}
        added = {"view": {"name": view_name, "records": shown.records}, "gates": [asdict(gate) for gate in asked]}
        print_result(comparison.as_json() | added | {"files": files})
        raise typer.Exit(_NOT_MET if failed else 0)
    out = result_console()
    for table in shown.tables:
        print_table(out, table.title, table.columns, table.rows, table.text)
    told = [*(chosen.sentence for chosen in comparison.chosen), *(gate.sentence for gate in asked)]
    for sentence in (*gain_sentences(comparison.pairs), *told):
        say(out, sentence)
    for pair in comparison.pairs if changed else []:
        _show_changed(out, pair, changed)
    for what, path in written.items():
        if not quiet:
            say(out, f"{what:<11}{path}")
    if failed:
        raise typer.Exit(_NOT_MET)


def _show_changed(out: "Console", pair: "Pair", most: int) -> None:
    for what, entries in (("gained", pair.gained), ("lost", pair.lost)):
        say(out, f"{pair.bench}, {pair.b} - {pair.a}: {what} {len(entries)}")
        for entry in entries[:most]:
            shares = f"{100 * entry['a']:.0f} to {100 * entry['b']:.0f} %"
            links = "  ".join(link for link in (entry["sample_a"], entry["sample_b"]) if link)
            say(out, f"  {printable(entry['problem'])}  {shares}  {links}")
