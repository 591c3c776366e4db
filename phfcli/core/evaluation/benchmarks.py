"""Loads benchmarks, by name or from any local file with problems and answers."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from phfcli.core.config import ColumnSettings, EvalConfig
from phfcli.core.errors import UserError, nearest
from phfcli.core.grading import Grader, last_box
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.tables import Row, looks_like_file, read_hub, read_rows, require_columns, rows_hash, text
from phfcli.core.types import Problem


@dataclass(frozen=True)
class Source:
    """Where a benchmark lies on the hub, and which columns hold what."""

    hub_id: str
    split: str
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None
    config: str | None = None
    revision: str | None = None  # a commit of the hub's repository; None is its newest
    gold: Callable[[str], str] = str.strip  # from the answer's column to the gold answer


@dataclass(frozen=True)
class Benchmark:
    """Problems with their gold answers, and the hash that tells copies of one benchmark apart."""

    name: str
    problems: list[Problem]
    sha256: str  # of all rows
    source: str  # a hub id with its revision, a file, or "embedded"
    unusable: tuple[str, ...] = ()  # ids of the rows left out, since their golds cannot be read


def _last_box(solution: str) -> str:
    return last_box(solution) or ""


def _after_hashes(answer: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", answer.rpartition("####")[2].strip())


# the commits that others have evaluated on; where none is known, the newest one is taken and its rows' hash recorded
HUB = {
    "aime24": Source("HuggingFaceH4/aime_2024", "train", id="id", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
    "aime25": Source(
        "yentinglin/aime_2025", "train", id="problem_idx", revision="6f71d77b0b89b9dabe07ab466c51df33f514df7f"
    ),
    "hmmt25": Source("MathArena/hmmt_feb_2025", "train", id="problem_idx"),
    "math500": Source(
        "HuggingFaceH4/MATH-500",
        "test",
        answer="solution",
        id="unique_id",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        gold=_last_box,  # the published script takes the last box of the solution as gold
    ),
    "amc23": Source(
        "math-ai/amc23", "test", problem="question", id="id", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057"
    ),
    "minerva": Source(
        "math-ai/minervamath", "test", problem="question", revision="ee46ddc498933b1977577953250ca5c66be64f96"
    ),
    "gsm8k": Source(
        "openai/gsm8k",
        "test",
        problem="question",
        config="main",
        revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
        gold=_after_hashes,
    ),
}

SUITES = {"paper": ("aime24", "aime25", "hmmt25")}

EMBEDDED_SPLITS = {EMBEDDED: "eval", "embedded-dev": "dev"}


def load_benchmarks(names: Iterable[str], config: EvalConfig) -> list[Benchmark]:
    """The benchmarks of these names; a suite's name stands for its members."""
    members = [member for name in names for member in SUITES.get(name, (name,))]
    benches = [load_benchmark(name, config) for name in dict.fromkeys(members)]
    twice = [name for name, count in Counter(bench.name for bench in benches).items() if count > 1]
    if twice:
        raise UserError(f"--bench: two benchmarks are called {twice[0]!r}; rename one of the files")
    return benches


def load_benchmark(name: str, config: EvalConfig) -> Benchmark:
    """A benchmark by name, or by the path of a jsonl, csv or parquet file.

    Raises:
        UserError: for an unknown name, a source that cannot be read, a missing column or an empty cell.
    """
    if name in EMBEDDED_SPLITS:
        path = embedded_problems(EMBEDDED_SPLITS[name])
        problems, source = _problems(read_rows(path), _own_columns(config.columns), name), EMBEDDED
    elif name in HUB:
        hub = HUB[name]
        revision = config.revision or hub.revision
        problems = _problems(read_hub(hub.hub_id, hub.split, hub.config, revision), hub, name)
        source = f"{hub.hub_id}@{revision or 'newest'}"
    elif looks_like_file(name):
        problems, source = _problems(read_rows(Path(name)), _own_columns(config.columns), name), name
        name = Path(name).stem
    else:
        known = [*EMBEDDED_SPLITS, *HUB, *SUITES]
        raise UserError(
            f"bench {name}: neither a benchmark nor a file; {nearest(name, known)}; see phf eval --bench list"
        )
    problems = problems[: config.limit]
    return Benchmark(name, problems, rows_hash(problems), source)


def check_golds(bench: Benchmark, grader: Grader) -> Benchmark:
    """The benchmark without the problems whose gold answer cannot be read, or does not equal itself.

    Raises UserError if that leaves none.
    """
    usable = grader.check_golds([problem.answer or "" for problem in bench.problems])
    problems = [p for p, ok in zip(bench.problems, usable, strict=True) if ok]
    if not problems:
        raise UserError(f"{bench.name}: none of its gold answers can be read")
    unusable = tuple(p.id for p, ok in zip(bench.problems, usable, strict=True) if not ok)
    return replace(bench, problems=problems, unusable=unusable)


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
