"""Arms of a comparison: a method on a model, with the evaluations of each of its seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phfcli.core.analysis.paired_difference import Scores, pool
from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation


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
        return pool(own) if own and all(own) else {}

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


def _count(results: Sequence[SavedEvaluation]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        counts[result.bench] = counts.get(result.bench, 0) + 1
    return counts
