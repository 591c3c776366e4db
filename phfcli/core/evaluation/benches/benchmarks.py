"""Loads benchmarks, by name or from any local file with problems and answers."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError, nearest
from phfcli.core.evaluation.benches.hub_sources import HUB, SUITES, Source, as_problem
from phfcli.core.extensions import find, names
from phfcli.core.grading import Grading
from phfcli.core.grading.golds import GOLD_FORMS, check_plausible
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.problem_rows import Columns, read_problems, rows_hash, skipped_rows
from phfcli.core.storage.tables import ListedRows, Row, Rows, looks_like_file, read_hub, read_rows
from phfcli.core.types import Problem


@dataclass(frozen=True)
class OwnBenchmark:
    """A benchmark that somebody has added.

    Attributes:
        rows: gives its rows, with `problem` and `answer`, when it is evaluated.
        grader: the name of its grader; None is the one of the settings.
    """

    rows: Callable[[], Iterable[Row]]
    grader: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Problems with their gold answers, and the hash that tells copies of one benchmark apart."""

    name: str
    problems: list[Problem]
    sha256: str  # of all rows
    source: str  # a hub id with its revision, a file, or "embedded"
    unusable: tuple[str, ...] = ()  # ids of the rows left out, since their golds cannot be read
    grader: str = "math"
    notes: tuple[str, ...] = ()  # what somebody who reads the score should know of the rows


EMBEDDED_SPLITS = {EMBEDDED: "eval", "embedded-dev": "dev"}

_REQUIRED = ("problem", "answer")

OWN_NAMES = (*EMBEDDED_SPLITS, *HUB, *SUITES)


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
    own: OwnBenchmark | None = None if name in OWN_NAMES else find("benchmarks", name)
    rows, columns, source = (_added(own), _own_columns(config), "added") if own else _found(name, config)
    hub = None if own else HUB.get(name)
    table = read_problems(rows, columns, name, config.bad_rows)
    problems = list(table[: config.limit])
    grader = own.grader if own and own.grader else "choice" if hub and hub.choices else config.grader
    notes = [skipped_rows(name, table.bad)] if table.bad else []
    if source.endswith("@newest"):
        notes.append(f"{name}: read at its newest revision, for none is pinned; the hash of its rows is recorded")
    if hub and hub.choices:
        notes.append(f"{name}: its options stand in the order that options_seed={config.options_seed} gives")
    golds = [gold for problem in problems for gold in problem.golds]
    if grader == "math" and (warning := check_plausible(golds, name)):
        notes.append(warning)
    own_name = Path(name).stem if source == name else name
    return Benchmark(own_name, problems, rows_hash(problems), source, grader=grader, notes=tuple(notes))


def _added(own: OwnBenchmark) -> Rows:
    rows = list(own.rows())
    return ListedRows(rows, list(rows[0]) if rows else [])


def _found(name: str, config: EvalConfig) -> tuple[Rows, Columns, str]:
    """The rows of one of our own benchmarks or of a file, their columns, and where they come from."""
    if name in EMBEDDED_SPLITS:
        return read_rows(embedded_problems(EMBEDDED_SPLITS[name])), _own_columns(config), EMBEDDED
    if name in HUB:
        hub, revision = HUB[name], config.revision or HUB[name].revision
        rows = read_hub(hub.hub_id, hub.split, hub.config, revision)
        source = f"{hub.hub_id}@{revision or 'newest'}"
        if hub.choices is not None:
            return _multiple_choice(name, hub, rows, config), Columns(answer="answer", required=_REQUIRED), source
        columns = _hub_columns(hub, config)
        _check_columns(name, hub, rows, (columns.problem, columns.answer or ""))
        return rows, columns, source
    if looks_like_file(name):
        return read_rows(Path(name)), _own_columns(config), name
    known = [*OWN_NAMES, *names("benchmarks")]
    raise UserError(f"bench {name}: neither a benchmark nor a file; {nearest(name, known)}; see phf eval --bench list")


def check_golds(bench: Benchmark, grader: Grading) -> Benchmark:
    """The benchmark without the problems whose gold answer cannot be read, or does not equal itself.

    Raises UserError if that leaves none.
    """
    every = list(dict.fromkeys(gold for problem in bench.problems for gold in problem.golds))
    usable = dict(zip(every, grader.check_golds(every), strict=True))
    problems = [p for p in bench.problems if any(usable[gold] for gold in p.golds)]
    if not problems:
        raise UserError(f"{bench.name}: none of its gold answers can be read")
    kept = {p.id for p in problems}
    return replace(bench, problems=problems, unusable=tuple(p.id for p in bench.problems if p.id not in kept))


def _multiple_choice(name: str, hub: Source, rows: Rows, config: EvalConfig) -> Rows:
    """Each row as a problem with lettered options; what does not hold a question is told by its place."""
    assert hub.choices is not None
    _check_columns(name, hub, rows, (hub.problem, hub.answer))
    listed = []
    for place, row in enumerate(rows):
        try:
            listed.append(as_problem(hub.choices(row), config.options_seed))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{name}: {rows.place(place)} of {hub.hub_id} is not in the form that is known: {error}"
            ) from None
    return ListedRows(listed, ["id", "problem", "answer"])


def _check_columns(name: str, hub: Source, rows: Rows, wanted: tuple[str, str]) -> None:
    """Raises UserError where a table of the hub has other columns than it had."""
    missing = [column for column in wanted if column not in rows.columns]
    if missing:
        raise UserError(
            f"{name}: {hub.hub_id} has no column {missing[0]!r} among {', '.join(map(str, rows.columns))}: "
            "it has changed; name an earlier commit with --set revision=COMMIT, or give a file with problem and answer"
        )


def _own_columns(config: EvalConfig) -> Columns:
    own = config.columns
    return Columns(own.problem, answer=own.answer, required=_REQUIRED, gold=GOLD_FORMS[config.gold])


def _hub_columns(hub: Source, config: EvalConfig) -> Columns:
    gold = hub.gold if config.gold == "as-is" else GOLD_FORMS[config.gold]
    return Columns(hub.problem, answer=hub.answer, id=hub.id, required=_REQUIRED, gold=gold)
