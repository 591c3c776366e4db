"""Writes tables for other programs: Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phfcli.core.analysis.diagnose import LayerReport
from phfcli.core.printable import markdown_cell, markdown_lines
from phfcli.core.storage.files import write_text

Row = Sequence[object]

_SCORE = re.compile(r"(\d+\.\d+) ± (\d+\.\d+)")  # differences have a sign, and none of them is the best

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    # after the \\ of the row before they would be its options
    "[": "{[}",
    "*": "{*}",
}


@dataclass(frozen=True)
class ResultTable:
    """A table of text; its numbers are already written as they are to be read."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_markdown(table: ResultTable) -> str:
    lines = markdown_lines(table.columns, table.rows)
    return f"**{markdown_cell(table.title)}**\n\n" + "\n".join(lines) + "\n"


def as_latex(table: ResultTable, label: str = "tab:results", ranked: bool = False) -> str:
    """A table that needs the package booktabs; columns of numbers to the right.

    Errors are small. `ranked` rows are methods: of each model the highest score of a column is bold.
    """
    first = table.rows[0] if table.rows else [""] * len(table.columns)
    alignment = "".join("r" if cell[:1] in set("+-0123456789") else "l" for cell in first)
    best: Sequence[Sequence[float | None]] = (
        _best_beside(table) if ranked else [[None] * len(row) for row in table.rows]
    )
    cells = [
        [_latex_score(cell, own) for cell, own in zip(row, beside, strict=True)]
        for row, beside in zip(table.rows, best, strict=True)
    ]
    header, *body = [" & ".join(row) + r" \\" for row in (map(_latex_cell, table.columns), *cells)]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex_cell(table.title)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def as_csv(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Comma-separated values; None is an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows of which the first is the header."""
    write_text(path, as_csv([str(cell) for cell in rows[0]], rows[1:]))


def write_records(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Writes records as CSV, their keys as the header."""
    header = list(dict.fromkeys(key for record in records for key in record))
    write_csv(path, [header, *([record.get(key) for key in header] for record in records)])


def layer_table(reports: Sequence[LayerReport]) -> list[Row]:
    """Every value by step and layer, under a header."""
    kinds, names = list(reports[0].all_energies), list(reports[0].measures)
    parts = range(len(reports[0].position_map[0]))
    header = [
        *("step", "layer", "energy_kind", "energy", "share"),
        *(f"energy_{kind}" for kind in kinds),
        *(name for name in names if name not in kinds),
        *(f"part_{part + 1}" for part in parts),
    ]
    lens = ("lens_entropy", "lens_agreement", "lens_divergence") if reports[0].model is not None else ()
    rows: list[Row] = [[*header, *lens]]
    for report in reports:
        for index, layer in enumerate(report.layers):
            measures = [_at(report.measures[name], index) for name in names if name not in kinds]
            energies = [report.all_energies[kind][index] for kind in kinds]
            own = (report.step, layer, report.energy, report.energies[index], report.share[index])
            read = [] if report.model is None else [values[index] for values in report.model.lens.by_layer()]
            rows.append([*own, *energies, *measures, *report.position_map[index], *read])
    return rows


def _at(values: Sequence[float | None], index: int) -> float | None:
    """The value of a layer, or None: the last layer has no next one, so `adjacent` is shorter."""
    return values[index] if index < len(values) else None


def _best_beside(table: ResultTable) -> list[list[float | None]]:
    """Beside each cell the highest score of its column, among the rows of the same model where there are several."""
    models = [row[0] if table.columns[0] == "model" else "" for row in table.rows]
    own = {model: [row for row, other in zip(table.rows, models, strict=True) if other == model] for model in models}
    best = {model: [_best(column) for column in zip(*rows, strict=True)] for model, rows in own.items()}
    return [best[model] for model in models]


def _best(cells: Sequence[str]) -> float | None:
    """The highest of a column's scores, if at least two of them have an error beside them."""
    scores = [float(found[1]) for cell in cells if (found := _SCORE.fullmatch(cell))]
    return max(scores) if len(scores) > 1 else None


def _latex_score(cell: str, best: float | None) -> str:
    """A cell; a score's error is small, and the best of its column is bold."""
    found = _SCORE.fullmatch(cell)
    if found is None:
        return _latex_cell(cell)
    score = rf"\textbf{{{found[1]}}}" if float(found[1]) == best else found[1]
    return rf"{score} {{\scriptsize $\pm$ {found[2]}}}"


def _latex_cell(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(cell.split()))
