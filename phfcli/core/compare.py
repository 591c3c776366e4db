"""Several evaluations side by side, and for each pair the difference on the problems they share."""

from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.files import read_json, read_lines
from phfcli.core.grading import Status
from phfcli.core.stats import paired_difference

Scores = dict[str, list[float]]  # problem id to the score of each sample


@dataclass(frozen=True)
class Result:
    """One evaluation: its summary and its scores by problem."""

    name: str
    summary: dict[str, Any]
    scores: Scores

    @property
    def bench(self) -> str:
        return str(self.summary["bench"])


def load_results(paths: list[Path], benches: list[str]) -> list[Result]:
    """The evaluations of runs, of evaluation folders or of summary files, only of `benches` if any are named.

    Raises:
        UserError: for a path without an evaluation, or a summary that lacks a field.
    """
    results = []
    for path in paths:
        found = [_load(file) for file in _summaries(path)]
        wanted = [r for r in found if not benches or r.bench in benches]
        if not wanted:
            what = f"of {', '.join(benches)} " if benches else ""
            raise UserError(f"{path}: no evaluation {what}found; run `phf eval {path}` first")
        results += wanted
    return _distinct(results)


def compare(results: list[Result]) -> dict[str, Any]:
    """Rows, one for each evaluation, and pairs, one for each two evaluations of one bench.

    Raises:
        UserError: for two evaluations under one bench's name whose problems differ.
    """
    pairs = []
    for a, b in combinations(results, 2):
        if a.bench == b.bench:
            pairs.append(_pair(a, b))
    return {"rows": [{"name": r.name, **r.summary} for r in results], "pairs": pairs}


def _pair(a: Result, b: Result) -> dict[str, Any]:
    if a.summary["bench_sha256"] != b.summary["bench_sha256"]:
        raise UserError(f"{a.name} and {b.name}: their copies of {a.bench} differ in rows, so they do not compare")
    difference = paired_difference(b.scores, a.scores)
    return {"bench": a.bench, "a": a.name, "b": b.name, **asdict(difference)}


def _summaries(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "summary.json").is_file():
        return [path / "summary.json"]
    if not path.exists():
        raise UserError(f"{path}: no such run or summary")
    # evaluations of older checkpoints have the step in their folder's name
    return [p for p in sorted((path / "evals").glob("*/summary.json")) if "-step-" not in p.parent.name]


def _load(path: Path) -> Result:
    summary = read_json(path)
    missing = [key for key in ("bench", "average", "stderr", "target", "bench_sha256") if key not in summary]
    if missing:
        raise UserError(f"{path}: not a summary of `phf eval`: {', '.join(missing)} missing")
    scores: Scores = {}
    for sample in read_lines(path.parent / "samples.jsonl"):
        scores.setdefault(sample["problem"], []).append(float(sample["status"] == Status.correct))
    if not scores:
        raise UserError(f"{path.parent / 'samples.jsonl'}: no samples beside the summary, so nothing can be paired")
    return Result(str(summary["target"]), summary, scores)


def _distinct(results: list[Result]) -> list[Result]:
    """Evaluations of one bench under one name are told apart by their step or their folder."""
    seen: dict[tuple[str, str], int] = {}
    distinct = []
    for result in results:
        key = (result.bench, result.name)
        seen[key] = seen.get(key, 0) + 1
        repeated = seen[key] > 1
        name = f"{result.name} ({result.summary.get('step') or seen[key]})" if repeated else result.name
        distinct.append(Result(name, result.summary, result.scores))
    return distinct
