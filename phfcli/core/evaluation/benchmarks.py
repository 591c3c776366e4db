"""Benchmarks: those known by name, from the hub or embedded, plugins, and local files with problems and answers."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError, nearest
from phfcli.core.extensions import anchored, conforming, find, in_file, names, short_name
from phfcli.core.grading import Grading
from phfcli.core.grading.answers import GOLD_FORMS, check_plausible
from phfcli.core.seeds import derive_seed
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.problem_rows import (
    LETTERS,
    Columns,
    as_question,
    lost_turns,
    read_problems,
    rows_hash,
    skipped_rows,
)
from phfcli.core.storage.tables import ListedRows, Row, Rows, looks_like_file, read_hub, read_rows
from phfcli.core.types import Problem

ReadChoices = Callable[[Row], "Choices"]


@dataclass(frozen=True)
class Choices:
    """A multiple-choice question."""

    id: str
    question: str
    options: list[str]
    right: int  # the index of the right option


@dataclass(frozen=True)
class Source:
    """The location of a benchmark on the hub, and its columns.

    Attributes:
        revision: a commit of the hub's repository; None is the newest one.
        gold: turns a cell of the answer column into the gold answer.
        choices: reads a row of a multiple-choice benchmark; None for a benchmark with free answers. With it, `problem`
            and `answer` name columns that must exist.
    """

    hub_id: str
    split: str
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None
    config: str | None = None
    revision: str | None = None
    gold: Callable[[str], str] = str.strip
    choices: ReadChoices | None = None


def as_problem(choices: Choices, seed: int) -> dict[str, Any]:
    """A multiple-choice question as a row with problem and answer; seed and id decide the order of the options."""
    order = np.random.default_rng(derive_seed(seed, "options", choices.id)).permutation(len(choices.options)).tolist()
    problem = as_question(choices.question, [choices.options[index] for index in order])
    return {"id": choices.id, "problem": problem, "answer": LETTERS[order.index(choices.right)]}


def _gpqa(row: Row) -> Choices:
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3))]
    return Choices(_text(row, "Record ID"), _text(row, "Question"), [str(option) for option in options], 0)


def _mmlu_pro(row: Row) -> Choices:
    options = [str(option) for option in row["options"]]
    right = int(row["answer_index"])
    if not 0 <= right < len(options):
        raise ValueError(f"answer_index {right} of {len(options)} options")
    return Choices(_text(row, "question_id"), _text(row, "question"), options, right)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value is None or not str(value).strip():
        raise ValueError(f"{column!r} is empty")
    return str(value)


def _math_arena(name: str) -> Source:
    """A benchmark of MathArena, at its newest revision, because MathArena corrects its tables from time to time."""
    return Source(f"MathArena/{name}", "train", id="problem_idx")


# pinned to the commits of published evaluations; without one the newest is read, and the hash of its rows recorded
HUB = {
    "aime24": Source("HuggingFaceH4/aime_2024", "train", id="id", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
    "aime25": Source(
        "yentinglin/aime_2025", "train", id="problem_idx", revision="6f71d77b0b89b9dabe07ab466c51df33f514df7f"
    ),
    "hmmt25": _math_arena("hmmt_feb_2025"),
    **{
        name: _math_arena(name)
        for name in ("aime_2026", "hmmt_nov_2025", "hmmt_feb_2026", "brumo_2025", "smt_2025", "cmimc_2025")
    },
    "math500": Source(
        "HuggingFaceH4/MATH-500",
        "test",
        answer="solution",
        id="unique_id",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        gold=GOLD_FORMS["last-box"],  # the published script takes the last box of the solution as gold
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
        gold=GOLD_FORMS["after-hashes"],
    ),
    "gpqa_diamond": Source(
        "Idavidrein/gpqa", "train", "Question", "Correct Answer", "Record ID", "gpqa_diamond", choices=_gpqa
    ),
    "mmlu_pro": Source("TIGER-Lab/MMLU-Pro", "test", "question", "options", "question_id", choices=_mmlu_pro),
}

SUITES = {"paper": ("aime24", "aime25", "hmmt25")}


@dataclass(frozen=True)
class OwnBenchmark:
    """A benchmark that a plugin has registered.

    Attributes:
        rows: returns the rows, with `problem` and `answer`; called when the benchmark is evaluated.
        grader: the name of its grader; None is the grader of the settings.
    """

    rows: Callable[[], Iterable[Row]]
    grader: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Problems with their gold answers, and a hash that identifies this copy of the benchmark."""

    name: str
    problems: list[Problem]
    sha256: str  # of all rows
    source: str  # a hub id with its revision, a file, FILE.py:NAME, "added" or "embedded"
    unusable: tuple[str, ...] = ()  # ids of the rows left out because their gold answers cannot be read
    grader: str = "math"
    notes: tuple[str, ...] = ()  # remarks on the rows, for readers of the score

    @property
    def plugin(self) -> str:
        """Its name among the plugins, if it is one."""
        return self.source if in_file(self.source) else self.name


EMBEDDED_SPLITS = {EMBEDDED: "eval", "embedded-dev": "dev"}

_REQUIRED = ("problem", "answer")

OWN_NAMES = (*EMBEDDED_SPLITS, *HUB, *SUITES)


def load_benchmarks(names: Iterable[str], config: EvalConfig) -> list[Benchmark]:
    """The benchmarks of these names; the name of a suite stands for its members.

    Raises:
        UserError: as `load_benchmark`, and for two benchmarks of the same name.
    """
    members = [member for name in names for member in SUITES.get(name, (name,))]
    benches = [load_benchmark(name, config) for name in dict.fromkeys(members)]
    twice = [name for name, count in Counter(bench.name for bench in benches).items() if count > 1]
    if twice:
        raise UserError(f"bench: two benchmarks are called {twice[0]!r}; rename one of the files")
    return benches


def load_benchmark(name: str, config: EvalConfig) -> Benchmark:
    """A benchmark by name, or by the path of a jsonl, csv or parquet file.

    Raises:
        UserError: for an unknown name, a source that cannot be read, a missing column or an empty cell.
    """
    plugin = None if name in OWN_NAMES else _plugin(name)
    if plugin:
        rows, columns = _plugin_rows(name, plugin), _set_columns(config)
        source = anchored(name) if in_file(name) else "added"
    else:
        rows, columns, source = _locate(name, config)
    hub = None if plugin else HUB.get(name)
    table = read_problems(rows, columns, name, config.bad_rows)
    problems = list(table[: config.limit])
    asks_letters = bool(hub and hub.choices) or table.columns.options is not None
    letters = "choice" if asks_letters and config.grader == "math" else config.grader
    grader = plugin.grader if plugin and plugin.grader else "choice" if hub and hub.choices else letters
    if grader == "choice" and not asks_letters:
        _check_letters(name, problems)
    notes = [*([skipped_rows(name, table.bad)] if table.bad else []), *lost_turns(name, table.shortened)]
    if source.endswith("@newest"):
        notes.append(f"{name}: read at its newest revision, because none is pinned; the hash of its rows is recorded")
    if hub and hub.choices:
        notes.append(f"{name}: options_seed={config.options_seed} decides the order of its options")
    golds = [gold for problem in problems for gold in problem.golds]
    if grader == "math" and (warning := check_plausible(golds, name)):
        notes.append(warning)
    bench_name = Path(name).stem if source == name and not in_file(name) else short_name(name)
    return Benchmark(bench_name, problems, rows_hash(problems), source, grader=grader, notes=tuple(notes))


def _check_letters(name: str, problems: Iterable[Problem]) -> None:
    """Raises UserError for a gold answer that is no letter, to which no answer to a choice is equal."""
    for problem in problems:
        for gold in problem.golds:
            if len(gold) != 1 or gold not in LETTERS:
                raise UserError(
                    f"{name}: problem {problem.id}: its answer {gold[:40]!r} is no letter, and grader=choice compares "
                    "letters; give the options in a column choices, or leave grader out"
                )


def _plugin(name: str) -> OwnBenchmark | None:
    """A benchmark that was added; in a file it may be the function that gives its rows."""
    plugin = find("benchmarks", name)
    return OwnBenchmark(plugin) if callable(plugin) else plugin


def _plugin_rows(name: str, plugin: OwnBenchmark) -> Rows:
    rows = list(conforming("benchmarks", name, plugin.rows(), Iterable))
    for row in rows:
        conforming("benchmarks", name, row, Mapping)
    return ListedRows(rows, list(rows[0]) if rows else [])


def _locate(name: str, config: EvalConfig) -> tuple[Rows, Columns, str]:
    """The rows of a known benchmark or of a file, their columns, and their source."""
    if name in EMBEDDED_SPLITS:
        return read_rows(embedded_problems(EMBEDDED_SPLITS[name])), _set_columns(config), EMBEDDED
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
        return read_rows(Path(name)), _set_columns(config), name
    known = [*OWN_NAMES, *names("benchmarks")]
    raise UserError(
        f"bench {name}: neither a benchmark nor a file; {nearest(name, known)}; `phf eval` with bench=list names all"
    )


def check_golds(bench: Benchmark, grader: Grading) -> Benchmark:
    """The benchmark without the problems whose gold answers the grader cannot use.

    Raises:
        UserError: no problem is left.
    """
    distinct = list(dict.fromkeys(gold for problem in bench.problems for gold in problem.golds))
    usable = dict(zip(distinct, grader.check_golds(distinct), strict=True))
    problems = [p for p in bench.problems if any(usable[gold] for gold in p.golds)]
    if not problems:
        raise UserError(f"{bench.name}: none of its gold answers can be read")
    kept = {p.id for p in problems}
    return replace(bench, problems=problems, unusable=tuple(p.id for p in bench.problems if p.id not in kept))


def _multiple_choice(name: str, hub: Source, rows: Rows, config: EvalConfig) -> Rows:
    """Each row as a problem with lettered options. Raises UserError, with the row's number, for any other row."""
    assert hub.choices is not None
    _check_columns(name, hub, rows, (hub.problem, hub.answer))
    listed = []
    for index, row in enumerate(rows):
        try:
            listed.append(as_problem(hub.choices(row), config.options_seed))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{name}: {rows.place(index)} of {hub.hub_id} is not a question with options: {error}"
            ) from None
    return ListedRows(listed, ["id", "problem", "answer"])


def _check_columns(name: str, hub: Source, rows: Rows, wanted: tuple[str, str]) -> None:
    """Raises UserError if a table of the hub lacks a wanted column."""
    missing = [column for column in wanted if column not in rows.columns]
    if missing:
        raise UserError(
            f"{name}: {hub.hub_id} has no column {missing[0]!r} among {', '.join(map(str, rows.columns))}: "
            "the data set has changed; set revision to an earlier commit, or bench to a file with problem and answer"
        )


def _set_columns(config: EvalConfig) -> Columns:
    names = config.columns
    return Columns(names.problem, answer=names.answer, required=_REQUIRED, gold=GOLD_FORMS[config.gold])


def _hub_columns(hub: Source, config: EvalConfig) -> Columns:
    gold = hub.gold if config.gold == "as-is" else GOLD_FORMS[config.gold]
    return Columns(hub.problem, answer=hub.answer, id=hub.id, required=_REQUIRED, gold=gold)
