"""Finds a benchmark's problems in training data: by 13 words in a row, and by near-duplicates.

Thirteen shared words in a row are the usual sign of contamination (GPT-3, appendix C). A near-duplicate is a training
problem that shares most of its runs of five words with a problem of the benchmark. That finds copies with some words
changed, which may share no thirteen words. Words are letters and digits in lower case, so spaces, punctuation and
dollar signs do not hide a copy.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import Benchmark
from phfcli.core.runs.folder import recorded_config
from phfcli.core.runs.problems import load_problems
from phfcli.core.runs.targets import Target
from phfcli.core.types import Problem

WORDS = 13
_SHINGLE = 5
_NEAR = 0.7  # Jaccard similarity of the runs of five words of two near-duplicates, at least
_SHOWN = 5  # ids named in a sentence
_WORD = re.compile(r"[^\W_]+")

Run = tuple[str, ...]


@dataclass(frozen=True)
class NearDuplicate:
    """A benchmark's problem, the most similar training problem, and the similarity of their runs of five words."""

    problem: str
    training: str
    similarity: float


@dataclass(frozen=True)
class Overlap:
    """The problems of a benchmark that were found in training data.

    Attributes:
        data: the name of the training data.
        problems: the number of problems of the benchmark.
        shared: ids of problems that share 13 words in a row with a training problem or its solution.
        near: near-duplicates, the most similar one for each problem.
    """

    data: str
    problems: int
    shared: list[str]
    near: list[NearDuplicate]

    @property
    def ids(self) -> list[str]:
        return list(dict.fromkeys([*self.shared, *(pair.problem for pair in self.near)]))

    def as_json(self, bench: str) -> dict[str, Any]:
        return asdict(self) | {"sentence": self.sentence(bench)}

    def sentence(self, bench: str) -> str:
        if not self.ids:
            return f"{bench}: none of its {self.problems} problems was found in {self.data}"
        more = f" and {len(self.ids) - _SHOWN} more" if len(self.ids) > _SHOWN else ""
        return (
            f"{bench}: {len(self.ids)} of {self.problems} problems were found in {self.data} ({len(self.shared)} share "
            f"{WORDS} words in a row, {len(self.near)} are near-duplicates): {', '.join(self.ids[:_SHOWN])}{more}; "
            "the score may reflect memorized answers"
        )


def overlaps_of(config: EvalConfig, target: Target, benches: Sequence[Benchmark]) -> dict[str, Overlap]:
    """The overlap of each benchmark with the training data that the setting `overlap` names; empty without it.

    Raises:
        UserError: `overlap` asks for the run's training data, and the target is no run.
    """
    if config.overlap is None:
        return {}
    if config.overlap != "run":
        training = TrainConfig(data=config.overlap, columns=config.columns, bad_rows="skip")
    elif target.run is not None:
        training = recorded_config(target.run)
    else:
        raise UserError(f"overlap: {target.name} is no run; set overlap to its training data, a file or a hub data set")
    problems = load_problems(training)
    name = training.data if config.overlap == "run" else config.overlap
    return {bench.name: find_overlap(bench.problems, problems, name) for bench in benches}


def find_overlap(problems: Sequence[Problem], training: Iterable[Problem], data: str) -> Overlap:
    """Compares a benchmark with training data, which is read once and not held in memory."""
    long_runs, short_runs = _index(problems, WORDS), _index(problems, _SHINGLE)
    sizes = {p.id: len(set(_runs(p.problem, _SHINGLE))) for p in problems}
    shared: set[str] = set()
    best: dict[str, NearDuplicate] = {}
    for row in training:
        for text in (row.problem, row.solution or ""):
            shared.update(problem for run in _runs(text, WORDS) for problem in long_runs.get(run, ()))
        row_runs = set(_runs(row.problem, _SHINGLE))
        hits = Counter(problem for run in row_runs for problem in short_runs.get(run, ()))
        for problem, count in hits.items():
            similarity = count / (len(row_runs) + sizes[problem] - count)
            if similarity >= _NEAR and (problem not in best or similarity > best[problem].similarity):
                best[problem] = NearDuplicate(problem, row.id, round(similarity, 3))
    order = [p.id for p in problems]
    return Overlap(data, len(order), [i for i in order if i in shared], [best[i] for i in order if i in best])


def _index(problems: Iterable[Problem], length: int) -> dict[Run, set[str]]:
    """Run of words -> ids of the problems that contain it."""
    index: dict[Run, set[str]] = defaultdict(set)
    for problem in problems:
        for run in _runs(problem.problem, length):
            index[run].add(problem.id)
    return index


def _runs(text: str, length: int) -> Iterator[Run]:
    """All runs of `length` words in a text; the only short run of a text below five words is the text itself."""
    words = tuple(_WORD.findall(text.lower()))
    if words and len(words) < length == _SHINGLE:
        yield words
    yield from (words[start : start + length] for start in range(len(words) - length + 1))
