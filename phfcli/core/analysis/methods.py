"""Arms of a comparison: a method on a model with the evaluations of each of its seeds, and the difference of two."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from phfcli.core.analysis.differences import (
    PairedDifference,
    Scores,
    SeedDifference,
    pool,
    seed_difference,
    suite_difference,
    unpaired_difference,
)
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.evaluation.scores import average
from phfcli.core.names import UnitName


@dataclass(frozen=True)
class Method:
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
        """The mean over benchmarks with its standard error; None where the method lacks one of them."""
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


def group_by_method(results: Sequence[SavedEvaluation], apart: bool = True) -> list[Method]:
    """Arms in the order of their first run. Seeds of one method on one model make one method.

    apart: several checkpoints of a run are several methods, the newest of each run with those of the other seeds.
    """
    found: dict[tuple[str, str, int], list[SavedEvaluation]] = {}
    for result in results:
        age = _age(result, results) if apart else 0
        found.setdefault((result.model, result.method, age), []).append(result)
    several = {key for key, own in found.items() if max(_count(own).values()) > 1}
    named = [found[key][0].objective for key in several]
    methods = []
    for key, own in found.items():
        unique = key in several and named.count(own[0].objective) == 1
        methods.append(Method(own[0].objective if unique else own[0].name, key[0], own))
    return methods


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


Values = Callable[[SavedEvaluation], Scores]  # of each problem the values of its samples, or one value


@dataclass(frozen=True)
class MethodDifference:
    """A difference over both units.

    Attributes:
        over_problems: would these very checkpoints differ on other problems?
        over_seeds: would another training differ? None where an method has one seed.
        unit: the one that counts.
    """

    over_problems: PairedDifference
    over_seeds: SeedDifference | None
    unit: UnitName

    @property
    def result(self) -> PairedDifference | SeedDifference:
        return self.over_seeds if self.unit == "seeds" and self.over_seeds else self.over_problems

    @property
    def p_value(self) -> float:
        """Of the unit that counts."""
        p_value = self.result.p_value
        assert p_value is not None  # a difference over seeds has several
        return p_value

    def as_json(self) -> dict[str, Any]:
        """The figures of the unit that counts, and both by their names."""
        own = asdict(self.result)
        shown = {key: own[key] for key in ("difference", "stderr", "low", "high", "p_value", "detectable")}
        return shown | {
            "problems": self.over_problems.problems,
            "unit": self.unit,
            "over_problems": asdict(self.over_problems),
            "over_seeds": asdict(self.over_seeds) if self.over_seeds else None,
        }


def sample_scores(result: SavedEvaluation) -> Scores:
    """1 for each right sample, else 0."""
    return result.scores


def measure(
    a: Method, b: Method, benches: Sequence[str], values: Values, unit: UnitName | None = None, most: float | None = 1.0
) -> MethodDifference:
    """b minus a on the mean over benchmarks of some value of each problem.

    unit: None is seeds where both methods have several, else problems.
    Raises UserError where the unit is seeds, and an method has a single one.
    """
    both = [(pool(list(map(values, b.of(bench)))), pool(list(map(values, a.of(bench))))) for bench in benches]
    over_problems = suite_difference(both, most=most)
    over_seeds = _over_seeds(a, b, benches, values)
    if unit == "seeds" and over_seeds is None:
        single = next(method.name for method in (a, b) if len(_problem_means(method, benches, values)) < 2)
        raise UserError(f"unit: seeds needs several seeds of each method, and {single} has one; set unit to problems")
    return MethodDifference(over_problems, over_seeds, unit or ("seeds" if over_seeds else "problems"))


def _over_seeds(a: Method, b: Method, benches: Sequence[str], values: Values) -> SeedDifference | None:
    """Paired where both have two seeds in common, else of two groups; None where an method has a single seed."""
    one, other = _problem_means(a, benches, values), _problem_means(b, benches, values)
    if min(len(one), len(other)) < 2:
        return None
    common = [seed for seed in one if seed in other and not isinstance(seed, str)]
    if len(common) >= 2:
        return seed_difference([other[seed] - one[seed] for seed in common])
    return unpaired_difference(list(other.values()), list(one.values()))


def _problem_means(method: Method, benches: Sequence[str], values: Values) -> Mapping[int | str, float]:
    """Of each seed, or run where it has none, the mean over benchmarks; only of those that have all of them."""
    found: dict[int | str, dict[str, float]] = {}
    for bench in benches:
        for result in method.of(bench):
            seed = result.home if result.seed is None else result.seed
            means = [fmean(own) for own in values(result).values()]
            found.setdefault(seed, {})[bench] = fmean(means)
    return {seed: fmean(own.values()) for seed, own in found.items() if len(own) == len(benches)}
