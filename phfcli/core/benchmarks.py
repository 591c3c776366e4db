"""Benchmarks by name, each with the form of its gold answers, and any local file with problems and answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from phfcli.core.config import ColumnSettings
from phfcli.core.errors import UserError, nearest
from phfcli.core.grading import last_box
from phfcli.core.records import Problem
from phfcli.core.resources import EMBEDDED, embedded_problems
from phfcli.core.tables import Row, looks_like_file, read_hub, read_rows, require_columns, rows_hash, text


@dataclass(frozen=True)
class Source:
    """Where a benchmark lies on the hub, and which columns hold what."""

    hub_id: str
    split: str
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None
    config: str | None = None
    gold: Callable[[str], str] = str.strip  # from the answer's column to the gold answer


@dataclass(frozen=True)
class Benchmark:
    """Problems with their gold answers, and the hash that tells copies of one benchmark apart."""

    name: str
    problems: list[Problem]
    sha256: str


def _last_box(solution: str) -> str:
    return last_box(solution) or ""


def _after_hashes(answer: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", answer.rpartition("####")[2].strip())


HUB = {
    "aime24": Source("HuggingFaceH4/aime_2024", "train", id="id"),
    "aime25": Source("yentinglin/aime_2025", "train", id="problem_idx"),
    "hmmt25": Source("MathArena/hmmt_feb_2025", "train", id="problem_idx"),
    # the published script takes the last box of the solution as gold
    "math500": Source("HuggingFaceH4/MATH-500", "test", answer="solution", id="unique_id", gold=_last_box),
    "amc23": Source("math-ai/amc23", "test", problem="question", id="id"),
    "minerva": Source("math-ai/minervamath", "test", problem="question"),
    "gsm8k": Source("openai/gsm8k", "test", problem="question", config="main", gold=_after_hashes),
}

EMBEDDED_SPLITS = {EMBEDDED: "eval", "embedded-dev": "dev"}


def load_benchmark(name: str, columns: ColumnSettings, limit: int | None = None) -> Benchmark:
    """A benchmark by name, or by the path of a jsonl, csv or parquet file.

    Raises:
        UserError: for an unknown name, a source that cannot be read, a missing column or an empty cell.
    """
    if name in EMBEDDED_SPLITS:
        problems = _problems(read_rows(embedded_problems(EMBEDDED_SPLITS[name])), _own_columns(columns), name)
    elif name in HUB:
        source = HUB[name]
        problems = _problems(read_hub(source.hub_id, source.split, source.config), source, name)
    elif looks_like_file(name):
        problems = _problems(read_rows(Path(name)), _own_columns(columns), name)
        name = Path(name).stem
    else:
        known = [*EMBEDDED_SPLITS, *HUB]
        raise UserError(f"--bench {name}: neither a benchmark nor a file; {nearest(name, known)}")
    problems = problems[:limit]
    return Benchmark(name, problems, rows_hash(problems))


def _own_columns(columns: ColumnSettings) -> Source:
    return Source("", "", problem=columns.problem, answer=columns.answer, id="id")


def _problems(rows: list[Row], source: Source, name: str) -> list[Problem]:
    require_columns(rows, [source.problem, source.answer], name)
    problems = []
    for index, row in enumerate(rows):
        own_id = row.get(source.id) if source.id else None
        problems.append(
            Problem(
                id=str(index if own_id is None else own_id),
                problem=text(row[source.problem], name, index, source.problem),
                answer=source.gold(text(row[source.answer], name, index, source.answer)),
            )
        )
    if len({p.id for p in problems}) < len(problems):  # ids must tell samples apart
        return [Problem(str(index), p.problem, answer=p.answer) for index, p in enumerate(problems)]
    return problems
