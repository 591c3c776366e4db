"""The grid of a report: each problem under each evaluation, with links to the samples."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phfcli.core.analysis.compare import Comparison
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation

_SIGNS = {"correct": "✓", "wrong": "✗", "no_answer": "∅", "truncated": "…"}
_LONGEST_ANSWER = 60  # characters


def problem_grid(comparison: Comparison, bench: str, place: int, page: Path) -> dict[str, Any]:
    """The grid of a benchmark for the page's template: rows of problems, columns of evaluations.

    Args:
        place: of the benchmark among those of the page.
        page: where the page will be; links are relative to it.
    """
    results = [result for result in comparison.results if result.bench == bench and result.samples]
    problems = sorted({problem for result in results for problem in result.samples})
    rows = [_row(results, problem, number, page) for number, problem in enumerate(problems)]
    return {"bench": bench, "place": place, "columns": [result.name for result in results], "rows": rows}


def _row(results: Sequence[SavedEvaluation], problem: str, number: int, page: Path) -> dict[str, Any]:
    cells: list[dict[str, Any] | None] = []
    answers = []
    for result in results:
        samples = result.samples.get(problem)
        if not samples:
            cells.append(None)
            continue
        right = sum(sample.correct for sample in samples)
        share = right / len(samples)
        link = f"{_relative(result.folder, page)}/samples.html#{quote(problem, safe='')}"
        told: dict[str, Any] = {
            "right": right,
            "count": len(samples),
            "share": f"{share:.4f}",
            "tenth": round(10 * share),
        }
        cells.append(told | {"link": link})
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


def _relative(folder: Path, page: Path) -> str:
    return quote(os.path.relpath(folder.resolve(), page.resolve().parent))


def _cut(answer: str | None) -> str:
    text = answer or ""
    return text if len(text) <= _LONGEST_ANSWER else text[:_LONGEST_ANSWER] + "…"
