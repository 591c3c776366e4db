"""phf compare."""

from pathlib import Path
from typing import Annotated, Any

import typer

from phfcli.commands.common import (
    AsJson,
    Plot,
    Quiet,
    check_plot,
    percent,
    plain_table,
    print_json,
    result_console,
    with_error,
)

Rows = list[list[str]]  # the first is the header


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN|SUMMARY...", help="Evaluated runs, or summary files.")],
    bench: Annotated[str, typer.Option(metavar="NAME[,...]", help="Only these benchmarks.")] = "",
    plot: Plot = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown.")] = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare evaluations: Average@n side by side, and each difference with its interval, paired by problem.

    \b
    Examples:
      phf compare runs/embedded runs/opsd-embedded-seed0 runs/phf-embedded-seed0
      phf compare runs/opsd runs/phf --bench aime24,aime25 --plot table.png --markdown table.md
    """
    check_plot(plot)
    from phfcli.core import compare as core

    results = core.load_results(paths, [name for name in bench.split(",") if name])
    comparison = core.compare(results)
    tables = {
        "Average@n in percent ± standard error over problems": _scores(comparison["rows"]),
        "Differences, paired by problem": _pairs(comparison["pairs"]),
    }
    if plot is not None:
        from phfcli.core.figures import draw_comparison

        draw_comparison(comparison, plot)
    if markdown is not None:
        from phfcli.core.files import write_text

        write_text(markdown, "\n".join(_markdown(title, rows) for title, rows in tables.items() if rows[1:]))
    if json_:
        print_json(comparison)
        return
    out = result_console()
    for title, rows in tables.items():
        if rows[1:]:
            out.print(plain_table(title, rows[0], rows[1:]))
    for what, path in (("picture", plot), ("markdown", markdown)):
        if path is not None and not quiet:
            out.print(f"{what:<11}{path}", markup=False)


def _scores(rows: list[dict[str, Any]]) -> Rows:
    table = [["run", "step", "bench", "n", "problems", "Average@n", "pass@n", "majority", "truncated"]]
    for row in rows:
        scores = with_error(row["average"], row["stderr"]), percent(row["pass_at_k"][str(row["n"])])
        step = "-" if row.get("step") is None else str(row["step"])
        counts = str(row["n"]), str(row["problems"])
        table.append(
            [row["name"], step, row["bench"], *counts, *scores, percent(row["majority"]), str(row["truncated"])]
        )
    return table


def _pairs(pairs: list[dict[str, Any]]) -> Rows:
    table = [["bench", "difference of", "points", "95% interval", "p", "problems"]]
    for pair in pairs:
        points = f"{100 * pair['difference']:+.1f} ± {percent(pair['stderr'])}"
        interval = f"{100 * pair['low']:+.1f} to {100 * pair['high']:+.1f}"
        what = f"{pair['b']} - {pair['a']}"
        table.append([pair["bench"], what, points, interval, f"{pair['p_value']:.4f}", str(pair["problems"])])
    return table


def _markdown(title: str, rows: Rows) -> str:
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body]]
    return f"**{title}**\n\n" + "\n".join(lines) + "\n"
