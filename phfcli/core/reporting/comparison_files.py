"""Writes the files of a comparison: tables, a picture, and the page of two evaluations' samples."""

from pathlib import Path

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.errors import UserError, interval, points
from phfcli.core.evaluation.samples import GradedSample, SampleFile
from phfcli.core.evaluation.samples_page import ShownRun, write_pair_page
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.names import ViewName
from phfcli.core.reporting.tables import View, as_latex, as_markdown, pair_records, paper_table, write_records
from phfcli.core.storage.files import write_text
from phfcli.core.storage.tables import read_rows
from phfcli.core.types import Problem


def write_comparison(
    name: ViewName,
    view: View,
    comparison: Comparison,
    plot: Path | None,
    markdown: Path | None,
    latex: Path | None,
    csv: Path | None,
    samples: Path | None = None,
) -> dict[str, Path]:
    """Writes the files whose paths are given; returns kind -> path.

    The tested differences go into a second CSV file, whose name ends in -pairs.csv.
    """
    if plot is not None:
        from phfcli.core.reporting.figures import draw_view  # loads matplotlib

        draw_view(name, comparison, plot)
    if markdown is not None:
        write_text(markdown, "\n".join(as_markdown(table) for table in view.tables))
    if latex is not None:
        # a paper shows methods x benchmarks; the differences, a table of ten columns, are in the other files
        tables = [paper_table(comparison)] if name in ("runs", "methods") else view.tables
        parts = [
            as_latex(table, f"tab:{name}" + (f"-{number}" if number else ""), ranked=number == 0 and name != "dynamics")
            for number, table in enumerate(tables)
        ]
        write_text(latex, "\n".join(parts))
    if csv is not None:
        write_records(csv, view.records)
        if comparison.pairs:
            write_records(csv.with_name(f"{csv.stem}-pairs.csv"), pair_records(comparison.pairs))
    if samples is not None:
        write_side_by_side(samples, comparison)
    files = {"picture": plot, "markdown": markdown, "latex": latex, "csv": csv, "samples": samples}
    return {what: path for what, path in files.items() if path is not None}


def write_side_by_side(path: Path, comparison: Comparison) -> None:
    """Writes the page that shows two evaluations side by side, with the difference of their averages.

    Raises:
        UserError: there are not two evaluations, they are of two benchmarks, or one has no samples.parquet.
    """
    results = comparison.results
    if len(results) != 2 or results[0].bench != results[1].bench:
        given = ", ".join(f"{result.name} on {result.bench}" for result in results)
        raise UserError(
            f"samples: the page shows two evaluations of one benchmark; choose them by path and bench. Given: {given}"
        )
    tables = [_rows(result) for result in results]
    problems = {
        row["problem"]: Problem(row["problem"], row["question"], answer=row["gold"]) for rows in tables for row in rows
    }
    first, second = (ShownRun(result.name, result.summary, rows) for result, rows in zip(results, tables, strict=True))
    sentence = "; ".join(_difference(pair) for pair in comparison.pairs)
    write_pair_page(path, first, second, list(problems.values()), sentence)


def _difference(pair: Pair) -> str:
    """The difference in percentage points, its interval, and the unit of the interval."""
    result = pair.result
    text = f"{pair.b} - {pair.a}: {points(result.difference)} points"
    if result.low is None or result.high is None:
        return text
    return f"{text} (95% interval {interval(result.low, result.high)}, over {pair.measured.unit})"


def _rows(result: SavedEvaluation) -> list[GradedSample]:
    """The rows of samples.parquet, which also holds the texts of the problems."""
    table = SampleFile(result.folder).table
    if not table.is_file():
        raise UserError(f"samples: {table} is missing; the same `phf eval` again writes it, without new samples")
    return [dict(row) for row in read_rows(table)]
