"""Compares evaluations: pools the seeds of one method, and tests each pair on the problems that both have.

Scores are compared problem by problem. Where a method has several seeds, a problem's score is the mean over them, so
the interval speaks of these seeds on other problems; how far seeds lie apart stands beside it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from phfcli.core.analysis.paired_difference import PairedDifference, holm, pool, suite_difference
from phfcli.core.errors import UserError
from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation

SUITE = "average"  # the name of the mean over benchmarks

_SPOIL = ("bench_sha256", "prompt", "sampling", "grading")  # where they differ, so does what is measured
_LISTED = ("n", "engine", "dtype", "seed", "versions", "device")
_MANY = 0.5  # of a problem's samples: more than these are right where it counts as solved

Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Arm:
    """A method on a model: one run, or several that differ in their seed."""

    name: str
    model: str
    results: Sequence[SavedEvaluation]

    @property
    def benches(self) -> list[str]:
        return list(dict.fromkeys(result.bench for result in self.results))

    @property
    def seeds(self) -> int:
        return max(sum(r.bench == bench for r in self.results) for bench in self.benches)

    def of(self, bench: str) -> list[SavedEvaluation]:
        return [result for result in self.results if result.bench == bench]

    def scores(self, bench: str) -> Scores:
        """The scores of each problem: of every sample of a single run, or the mean of each seed."""
        own = [result.scores for result in self.of(bench)]
        if not own or not all(own):
            return {}
        return own[0] if len(own) == 1 else pool(own)

    def average(self, bench: str) -> tuple[float, float | None]:
        """Average@n over the seeds, and its standard error over problems."""
        if scores := self.scores(bench):
            pooled = average(list(scores.values()))
            return pooled.average, pooled.stderr
        summaries = [result.summary for result in self.of(bench)]
        single = summaries[0]["stderr"] if len(summaries) == 1 else None
        return math.fsum(s["average"] for s in summaries) / len(summaries), single

    def suite(self, benches: Sequence[str]) -> tuple[float, float | None] | None:
        """The mean over benchmarks with its standard error; None where the arm lacks one of them."""
        if not set(benches) <= set(self.benches):
            return None
        values = [self.average(bench) for bench in benches]
        errors = [error for _, error in values if error is not None]
        mean = math.fsum(value for value, _ in values) / len(values)
        return mean, math.hypot(*errors) / len(values) if len(errors) == len(values) else None

    def seed_spread(self, bench: str) -> float | None:
        """The standard deviation of Average@n from seed to seed; None for a single one."""
        values = [result.summary["average"] for result in self.of(bench)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Pair:
    """The difference b - a on a benchmark, or on the mean of several."""

    model: str  # of b
    bench: str
    a: str
    b: str
    result: PairedDifference
    p_holm: float
    gained: list[dict[str, Any]]
    lost: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        head = {"model": self.model, "bench": self.bench, "a": self.a, "b": self.b, **asdict(self.result)}
        return head | {"p_holm": self.p_holm, "gained": self.gained, "lost": self.lost}


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, which tables and pictures show; `notes` names settings that differ."""

    results: list[SavedEvaluation]
    arms: list[Arm]
    pairs: list[Pair]
    notes: list[str]
    tested: bool  # else an arm may hold several steps of a run, and its figures are those of no checkpoint

    @property
    def benches(self) -> list[str]:
        return list(dict.fromkeys(result.bench for result in self.results))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(arm.model for arm in self.arms))

    def as_json(self) -> dict[str, Any]:
        rows = [{"name": r.name, "model": r.model, "seed": r.seed, **r.summary} for r in self.results]
        arms = [
            {
                "name": arm.name,
                "model": arm.model,
                "runs": list(dict.fromkeys(r.name for r in arm.results)),
                "benches": {
                    bench: dict(zip(("average", "stderr"), arm.average(bench), strict=True))
                    | {"seed_spread": arm.seed_spread(bench)}
                    for bench in arm.benches
                },
                "average": (arm.suite(self.benches) or (None,))[0],
            }
            for arm in self.arms
        ]
        return {
            "rows": rows,
            "arms": arms if self.tested else [],
            "pairs": [p.as_json() for p in self.pairs],
            "unequal": self.notes,
        }


def compare(results: list[SavedEvaluation], unequal: bool = False, tested: bool = True) -> Comparison:
    """Pools seeds, refuses evaluations that were sampled differently, and tests every pair of arms of one model.

    Args:
        unequal: compare also evaluations with other prompts or sampling.
        tested: with differences; not where several steps of a run stand for one arm.

    Raises:
        UserError: for evaluations of one benchmark whose rows, or without `unequal` whose prompts or sampling, differ.
    """
    arms = group(results, apart=tested)
    notes = [note for bench in dict.fromkeys(r.bench for r in results) for note in _check(results, bench, unequal)]
    differences = list(_differences(arms)) if tested else []
    corrected = holm([difference.p_value for _, _, _, difference in differences])
    pairs = []
    for (bench, a, b, difference), p in zip(differences, corrected, strict=True):
        gained, lost = changed(a, b, bench) if bench in a.benches else ([], [])
        pairs.append(Pair(b.model, bench, a.name, b.name, difference, p, gained, lost))
    return Comparison(results, arms, pairs, notes, tested)


def group(results: Sequence[SavedEvaluation], apart: bool = True) -> list[Arm]:
    """Arms in the order of their first run. Seeds of one method on one model make one arm.

    apart: several checkpoints of a run are several arms, the newest of each run with those of the other seeds.
    """
    found: dict[tuple[str, str, int], list[SavedEvaluation]] = {}
    for result in results:
        age = _age(result, results) if apart else 0
        found.setdefault((result.model, result.method, age), []).append(result)
    several = {key for key, own in found.items() if max(_count(own).values()) > 1}
    named = [found[key][0].objective for key in several]
    arms = []
    for key, own in found.items():
        unique = key in several and named.count(own[0].objective) == 1
        arms.append(Arm(own[0].objective if unique else own[0].name, key[0], own))
    return arms


def _age(result: SavedEvaluation, results: Sequence[SavedEvaluation]) -> int:
    """How many evaluations of the same run and benchmark are newer or have more samples."""
    own = {_moment(r) for r in results if (r.home, r.bench) == (result.home, result.bench)}
    return sum(moment > _moment(result) for moment in own)


def _moment(result: SavedEvaluation) -> tuple[int, int]:
    return result.step or 0, result.summary.get("n") or 0


def changed(a: Arm, b: Arm, bench: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The problems that b solves and a does not, and the other way round; solved is more than half of the samples.

    Each with both shares and a sample to look at: a right one of the arm that solves it, a wrong one of the other.
    """
    one, other = a.scores(bench), b.scores(bench)
    gained: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for problem in sorted(one.keys() & other.keys()):
        shares = [math.fsum(scores[problem]) / len(scores[problem]) for scores in (one, other)]
        solved = [share > _MANY for share in shares]
        if solved[0] == solved[1]:
            continue
        links = [_example(arm.of(bench), problem, right) for arm, right in zip((a, b), solved, strict=True)]
        entry = {"problem": problem, "a": shares[0], "b": shares[1], "sample_a": links[0], "sample_b": links[1]}
        (gained if solved[1] else lost).append(entry)
    for entries in (gained, lost):
        entries.sort(key=lambda entry: -abs(entry["b"] - entry["a"]))
    return gained, lost


def _example(results: Sequence[SavedEvaluation], problem: str, right: bool) -> str | None:
    for result in results:
        for sample in result.samples.get(problem, []):
            if sample.correct == right:
                return result.link(problem, sample.number)
    return None


def _differences(arms: Sequence[Arm]) -> Iterator[tuple[str, Arm, Arm, PairedDifference]]:
    """Every two arms of one model on every benchmark and, where there are several, on their mean.

    Where no model has two arms, arms of different models are compared.
    """
    models = [arm.model for arm in arms]
    within = len(set(models)) < len(models)
    for a, b in combinations(arms, 2):
        if within and a.model != b.model:
            continue
        shared = [bench for bench in a.benches if b.scores(bench) and a.scores(bench)]
        scores = [(b.scores(bench), a.scores(bench)) for bench in shared]
        for bench, both in zip(shared, scores, strict=True):
            yield bench, a, b, suite_difference([both])
        if len(shared) > 1:
            yield SUITE, a, b, suite_difference(scores)


def _check(results: Sequence[SavedEvaluation], bench: str, unequal: bool) -> Iterator[str]:
    """What differs between the evaluations of a benchmark. Raises UserError where it spoils the comparison."""
    own = [result for result in results if result.bench == bench]
    for key in (*_SPOIL, *_LISTED):
        values = [result.settings.get(key) for result in own]
        if any(value is None for value in values):
            unknown = [r.name for r, value in zip(own, values, strict=True) if value is None]
            if key in _SPOIL:
                yield f"{bench}: {key} of {', '.join(unknown)} is not known"
        known = [(result, value) for result, value in zip(own, values, strict=True) if value is not None]
        for result, value in known[1:]:
            first, wanted = known[0]
            if value == wanted:
                continue
            told = f"{bench}: {key} {_difference(wanted, value)} ({first.name} and {result.name})"
            if key == "bench_sha256":
                raise UserError(
                    f"{first.name} and {result.name}: their copies of {bench} differ in rows, so they do not compare"
                )
            if key in _SPOIL and not unequal:
                raise UserError(f"{told}: they do not compare; --unequal compares them all the same")
            yield told


def _difference(a: Any, b: Any) -> str:
    """Two values as "a / b", of objects only the fields that differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return ", ".join(f"{k} {a.get(k)} / {b.get(k)}" for k in a | b if a.get(k) != b.get(k))
    return f"{a} / {b}"


def _count(results: Sequence[SavedEvaluation]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        counts[result.bench] = counts.get(result.bench, 0) + 1
    return counts
