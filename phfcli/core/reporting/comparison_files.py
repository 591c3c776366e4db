"""Writes a comparison to the files that were asked for: a picture, Markdown, LaTeX, CSV, samples."""

from pathlib import Path

from phfcli.core.analysis.compare import Comparison
from phfcli.core.names import ViewName
from phfcli.core.reporting.comparison_tables import View, pair_records, paper_table
from phfcli.core.reporting.samples.side_by_side import write_side_by_side
from phfcli.core.reporting.table_export import as_latex, as_markdown, write_records
from phfcli.core.storage.files import write_text


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
    """Writes each file that is given; returns them by what they are.

    The differences go beside the CSV, in a file whose name ends in -pairs.csv.
    """
    if plot is not None:
        from phfcli.core.reporting.figures import draw_view  # loads matplotlib

        draw_view(name, comparison, plot)
    if markdown is not None:
        write_text(markdown, "\n".join(as_markdown(table) for table in view.tables))
    if latex is not None:
        # a paper has models x benches; the differences, of ten columns, are in the other files
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
