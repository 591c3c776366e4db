"""The parts that pages share: figures, sortable tables, and the grid of problems."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from phfcli.core.analysis.compare import Comparison
from phfcli.core.evaluation.samples_page import common_style, fill_template
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.reporting.tables import ResultTable

MEANINGS = {  # explanations of the columns whose names are not clear by themselves
    "Average@n": "The share of right samples, mean over problems, with its standard error over problems.",
    "greedy": "The share of problems whose greedy completion is right: the likeliest token each time.",
    "pass@n": "The share of problems of which at least one of the n samples is right.",
    "majority": "The share of problems whose most frequent answer is right.",
    "truncated": "The share of samples that the token limit has cut.",
    "points": "The difference in percentage points, with its standard error over the unit of the row.",
    "95% interval": "All differences that the test of the row does not reject at 5%.",
    "over": "The unit of the row: other trainings (seeds), or these checkpoints on other problems (problems).",
    "p": "How often chance alone would give a difference as large; 0.0001 stands for anything below it too.",
    "p, Holm": "The p-value corrected by Holm's method, since many tests together find more by chance.",
    "could show": "The true difference, in points, that this test would find in four of five such comparisons.",
    "gained": "Of b - a: problems that b solves and a does not; solved is more than half of the samples.",
    "lost": "Of b - a: problems that a solves and b does not.",
}

_FOLDER = Path(__file__).parent / "page"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?=\s|$)")
_BELOW_ALL = "-1000000000"  # the sort key of an empty cell


class Figure(NamedTuple):
    """A chart of the page with its caption."""

    svg: str
    caption: str


def render_page(name: str, context: dict[str, Any]) -> str:
    """Renders a template of this room with the style and the script that its pages share."""
    style = common_style() + (_FOLDER / "report.css").read_text(encoding="utf-8")
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("tablesort.min.js", "report.js"))
    return fill_template(_FOLDER / name, style, script, context)


def sortable(table: ResultTable) -> dict[str, Any]:
    """A table for the template: whether each column holds numbers, and the sort key of each cell, None for text."""
    numbers = [column not in table.text for column in table.columns]
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
    """The number at the start of a cell, without an exponent, which the sorting script cannot read; else ""."""
    number = _NUMBER.match(cell)
    return f"{float(number[0].replace(',', '')):.12f}".rstrip("0").rstrip(".") if number else ""


_SIGNS = {"correct": "✓", "wrong": "✗", "no_answer": "∅", "truncated": "…"}
_LONGEST_ANSWER = 60  # characters


def problem_grid(comparison: Comparison, bench: str, place: int, page: Path) -> dict[str, Any]:
    """The grid of a benchmark for the page's template: rows of problems, columns of evaluations.

    Args:
        place: the index of the benchmark on the page.
        page: the path of the page, to which links are relative.
    """
    results = [result for result in comparison.results if result.bench == bench and result.samples]
    problems = sorted({problem for result in results for problem in result.samples})
    links = [f"{_relative(r.folder, page.parent)}/samples.html?report={_relative(page, r.folder)}" for r in results]
    rows = [_row(results, links, problem, number) for number, problem in enumerate(problems)]
    return {"bench": bench, "place": place, "columns": [result.name for result in results], "rows": rows}


def _row(results: Sequence[SavedEvaluation], pages: Sequence[str], problem: str, number: int) -> dict[str, Any]:
    """A problem's row; `pages` has the address of each result's page of samples."""
    cells: list[dict[str, Any] | None] = []
    answers = []
    for result, address in zip(results, pages, strict=True):
        samples = result.samples.get(problem)
        if not samples:
            cells.append(None)
            continue
        right = sum(sample.correct for sample in samples)
        share = right / len(samples)
        link = f"{address}#{quote(problem, safe='')}"
        cell: dict[str, Any] = {
            "right": right,
            "count": len(samples),
            "share": f"{share:.4f}",
            "tenth": round(10 * share),
        }
        cells.append(cell | {"link": link})
        shown = [
            {
                "number": s.number,
                "status": s.status,
                "words": s.status.replace("_", " "),
                "sign": _SIGNS.get(s.status, "!"),
                "answer": _cut(s.answer),
            }
            for s in samples
        ]
        answers.append((result.name, link, shown))
    shares = [float(cell["share"]) for cell in cells if cell]
    return {
        "problem": problem,
        "place": number,
        "gold": _cut(next((r.golds[problem] for r in results if problem in r.golds), "")),
        "cells": cells,
        "answers": answers,
        "kind": _kind(shares),
        "range": f"{100 * (max(shares) - min(shares)):.0f}",
    }


def _kind(shares: Sequence[float]) -> str:
    """The words that the page's filter matches: some of `differ`, `gap`, `none` and `all`."""
    solved = [share > 0.5 for share in shares]
    kinds = {
        "differ": max(shares) > min(shares),
        "gap": any(solved) and not all(solved),
        "none": not any(solved),
        "all": all(solved),
    }
    return " ".join(kind for kind, holds in kinds.items() if holds)


def _relative(path: Path, folder: Path) -> str:
    return quote(os.path.relpath(path.resolve(), folder.resolve()))


def _cut(answer: str | None) -> str:
    text = answer or ""
    return text if len(text) <= _LONGEST_ANSWER else text[:_LONGEST_ANSWER] + "…"
