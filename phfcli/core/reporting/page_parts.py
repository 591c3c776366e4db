"""What the pages of this room are made of: figures, tables that sort, and the template with its style and script."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phfcli.core.evaluation.page.page_style import common_style, page_policy
from phfcli.core.reporting.table_export import ResultTable

MEANINGS = {  # of the columns whose names do not say it
    "Average@n": "The share of right samples, mean over problems, with its standard error over problems.",
    "pass@n": "The share of problems of which at least one of the n samples is right.",
    "majority": "The share of problems whose most frequent answer is right.",
    "truncated": "The share of samples that the token limit has cut.",
    "points": "The difference in percentage points, with its standard error over the unit of the row.",
    "95% interval": "All differences that the test of the row does not reject at 5%.",
    "over": "What the row speaks of: other trainings (seeds), or these checkpoints on other problems (problems).",
    "p": "How often chance alone would give a difference as large.",
    "p, Holm": "The p-value corrected by Holm's method, since many tests together find more by chance.",
    "could show": "The true difference, in points, that this test would find in four of five such comparisons.",
    "gained": "Of b - a: problems that b solves and a does not; solved is more than half of the samples.",
    "lost": "Of b - a: problems that a solves and b does not.",
}

_FOLDER = Path(__file__).parent / "page"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?=\s|$)")
_BELOW_ALL = "-1000000000"  # what an empty cell sorts by


class Figure(NamedTuple):
    """A picture of the page, with what it shows."""

    svg: str
    caption: str


def render_page(name: str, context: dict[str, Any]) -> str:
    """The template as a page of its own, which asks no network; whatever is not marked safe is escaped."""
    loader = FileSystemLoader(_FOLDER)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.get_template(name)
    style = common_style() + (_FOLDER / "report.css").read_text(encoding="utf-8")
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("tablesort.min.js", "report.js"))
    policy = page_policy(f"<style>{style}</style><script>{script}</script>")
    page = template.render(context | {"style": style, "script": script, "policy": policy})
    return page.encode("utf-8", "replace").decode()  # half a character pair cannot be written


def sortable(table: ResultTable) -> dict[str, Any]:
    """A table for the page: whether a column holds numbers, and for each cell what it sorts by, None for text."""
    numbers = []
    for index, _ in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        numbers.append(any(map(_leading, cells)) and all(cell == "-" or _leading(cell) for cell in cells))
    rows = [
        [(cell, (_leading(cell) or _BELOW_ALL) if number else None) for cell, number in zip(row, numbers, strict=True)]
        for row in table.rows
    ]
    meanings = {column: MEANINGS[column] for column in table.columns if column in MEANINGS}
    return {
        "title": table.title,
        "meanings": meanings,
        "columns": list(zip(table.columns, numbers, strict=True)),
        "rows": rows,
    }


def _leading(cell: str) -> str:
    """The number that a cell begins with, without an exponent, which the sorting does not know; or nothing."""
    found = _NUMBER.match(cell)
    return f"{float(found[0].replace(',', '')):.12f}".rstrip("0").rstrip(".") if found else ""
