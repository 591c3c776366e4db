"""Looks for a benchmark's problems in training data: 13 words in a row, and problems that are nearly the same.

Thirteen words in a row is the usual mark of a text that was seen (GPT-3, appendix C). A near-duplicate is a training
problem that shares most of its runs of five words with the benchmark's: a copy with some words changed, which may share
no thirteen. Words are letters or digits in lower case, so that spaces, punctuation and dollar signs do not hide a copy.
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
_NEAR = 0.7  # shared runs of five over all that either has
_SHOWN = 5  # ids in a sentence
_WORD = re.compile(r"[^\W_]+")

Run = tuple[str, ...]


@dataclass(frozen=True)
class NearDuplicate:
    """A benchmark's problem, the most alike training problem, and the share of runs of five words that they share."""

    problem: str
    training: str
    similarity: float


@dataclass(frozen=True)
class Overlap:
    """What a benchmark shares with training data.

    Attributes:
        data: the training data.
        problems: of the benchmark.
        shared: ids of problems with 13 words in a row that stand in a training problem or its solution.
        near: near-duplicates, the most alike of each problem.
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
            "the score may be of what was learned by heart"
        )


def overlaps_of(config: EvalConfig, target: Target, benches: Sequence[Benchmark]) -> dict[str, Overlap]:
    """What each benchmark shares with the training data that the settings name. Nothing where they name none.

    Raises:
        UserError: where the run's own data is asked for, and the target is no run.
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
    return {bench.name: find_overlap(bench.problems, problems, training.data) for bench in benches}


def find_overlap(problems: Sequence[Problem], training: Iterable[Problem], data: str) -> Overlap:
    """Goes through the training data once; only the benchmark is held in memory."""
    long_runs, short_runs = _index(problems, WORDS), _index(problems, _SHINGLE)
    sizes = {p.id: len(set(_runs(p.problem, _SHINGLE))) for p in problems}
    shared: set[str] = set()
    best: dict[str, NearDuplicate] = {}
    for row in training:
        for text in (row.problem, row.solution or ""):
            shared.update(problem for run in _runs(text, WORDS) for problem in long_runs.get(run, ()))
        own = set(_runs(row.problem, _SHINGLE))
        hits = Counter(problem for run in own for problem in short_runs.get(run, ()))
        for problem, count in hits.items():
            similarity = count / (len(own) + sizes[problem] - count)
            if similarity >= _NEAR and (problem not in best or similarity > best[problem].similarity):
                best[problem] = NearDuplicate(problem, row.id, round(similarity, 3))
    order = [p.id for p in problems]
    return Overlap(data, len(order), [i for i in order if i in shared], [best[i] for i in order if i in best])


def _index(problems: Iterable[Problem], length: int) -> dict[Run, set[str]]:
    found: dict[Run, set[str]] = defaultdict(set)
    for problem in problems:
        for run in _runs(problem.problem, length):
            found[run].add(problem.id)
    return found


def _runs(text: str, length: int) -> Iterator[Run]:
    """All runs of so many words; a text that is shorter than five words has itself as its only short one."""
    words = tuple(_WORD.findall(text.lower()))
    if words and len(words) < length == _SHINGLE:
        yield words
    yield from (words[start : start + length] for start in range(len(words) - length + 1))
