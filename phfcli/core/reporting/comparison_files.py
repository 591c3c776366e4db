"""Writes a comparison to the files that were asked for: a picture, Markdown, LaTeX, CSV."""

from pathlib import Path

from phfcli.core.analysis.compare import Comparison
from phfcli.core.names import ViewName
from phfcli.core.reporting.comparison_tables import View, pair_records
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
) -> dict[str, Path]:
    """Writes each file that is given; returns them by what they are.

    The differences go beside the CSV, in a file whose name ends in -pairs.csv.
    """
    if plot is not None:
        from phfcli.core.reporting.figures import draw_view  # loads matplotlib

        draw_view(name, comparison, plot)
    for path, form in ((markdown, as_markdown), (latex, as_latex)):
        if path is not None:
            write_text(path, "\n".join(form(table) for table in view.tables))
    if csv is not None:
        write_records(csv, view.records)
        if comparison.pairs:
            write_records(csv.with_name(f"{csv.stem}-pairs.csv"), pair_records(comparison.pairs))
    files = {"picture": plot, "markdown": markdown, "latex": latex, "csv": csv}
    return {what: path for what, path in files.items() if path is not None}
