"""The methods of a comparison, each with the evaluations of all its seeds, and the difference of two methods."""

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
    """A training method on one model, with its evaluations: those of one run, or of several runs with other seeds."""

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
        """The evaluations on a benchmark, one for each seed."""
        return [result for result in self.results if result.bench == bench]

    def scores(self, bench: str) -> Scores:
        """Problem -> scores: those of all samples for a single run, or the mean of each seed."""
        seeds = [result.scores for result in self.of(bench)]
        return pool(seeds) if seeds and all(seeds) else {}

    def average(self, bench: str) -> tuple[float, float | None]:
        """Average@n over the seeds, and its standard error over problems."""
        if scores := self.scores(bench):
            pooled = average(list(scores.values()))
            return pooled.average, pooled.stderr
        summaries = [result.summary for result in self.of(bench)]
        single = summaries[0]["stderr"] if len(summaries) == 1 else None
        return math.fsum(s["average"] for s in summaries) / len(summaries), single

    def suite(self, benches: Sequence[str]) -> tuple[float, float | None] | None:
        """The mean over benchmarks and its standard error; None if the method has no evaluation on one of them."""
        if not set(benches) <= set(self.benches):
            return None
        values = [self.average(bench) for bench in benches]
        errors = [error for _, error in values if error is not None]
        mean = math.fsum(value for value, _ in values) / len(values)
        return mean, math.hypot(*errors) / len(values) if len(errors) == len(values) else None

    def seed_spread(self, bench: str) -> float | None:
        """The standard deviation of Average@n over seeds; None for a single seed."""
        values = [result.summary["average"] for result in self.of(bench)]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def group_by_method(results: Sequence[SavedEvaluation], split_checkpoints: bool = True) -> list[Method]:
    """Groups evaluations by method and model, in the order of their first run; runs with other seeds belong together.

    Args:
        split_checkpoints: whether several checkpoints of a run count as several methods; the newest checkpoints of all
            seeds are one of them.
    """
    groups: dict[tuple[str, str, int], list[SavedEvaluation]] = {}
    for result in results:
        age = _age(result, results) if split_checkpoints else 0
        groups.setdefault((result.model, result.method, age), []).append(result)
    several = {key for key, group in groups.items() if max(_count(group).values()) > 1}
    objectives = [groups[key][0].objective for key in several]
    methods = []
    for key, group in groups.items():
        # several seeds are called by their objective, unless that would name two methods
        unique = key in several and objectives.count(group[0].objective) == 1
        methods.append(Method(group[0].objective if unique else group[0].name, key[0], group))
    return methods


def _age(result: SavedEvaluation, results: Sequence[SavedEvaluation]) -> int:
    """The number of evaluations of the same run and benchmark that are newer or have more samples."""
    moments = {_moment(r) for r in results if (r.home, r.bench) == (result.home, result.bench)}
    return sum(moment > _moment(result) for moment in moments)


def _moment(result: SavedEvaluation) -> tuple[int, int]:
    """The step and the number of samples, by which evaluations of a run are ordered."""
    return result.step or 0, result.summary.get("n") or 0


def _count(results: Sequence[SavedEvaluation]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        counts[result.bench] = counts.get(result.bench, 0) + 1
    return counts


Values = Callable[[SavedEvaluation], Scores]  # problem -> the values of its samples, or one value


@dataclass(frozen=True)
class MethodDifference:
    """The difference of two methods, with intervals over problems and over seeds.

    Attributes:
        over_problems: answers whether these checkpoints would differ on other problems.
        over_seeds: answers whether other trainings would differ; None if a method has a single seed.
        unit: which of the two is the result.
    """

    over_problems: PairedDifference
    over_seeds: SeedDifference | None
    unit: UnitName

    @property
    def result(self) -> PairedDifference | SeedDifference:
        return self.over_seeds if self.unit == "seeds" and self.over_seeds else self.over_problems

    @property
    def p_value(self) -> float:
        """The p-value of the result."""
        p_value = self.result.p_value
        assert p_value is not None  # over_seeds exists only for several seeds, so it has a p-value
        return p_value

    def as_json(self) -> dict[str, Any]:
        """The figures of the result, and those over problems and over seeds."""
        result = asdict(self.result)
        shown = {key: result[key] for key in ("difference", "stderr", "low", "high", "p_value", "detectable")}
        return shown | {
            "problems": self.over_problems.problems,
            "unit": self.unit,
            "over_problems": asdict(self.over_problems),
            "over_seeds": asdict(self.over_seeds) if self.over_seeds else None,
        }


def sample_scores(result: SavedEvaluation) -> Scores:
    """The scores of an evaluation: 1 for each right sample, else 0."""
    return result.scores


def measure(
    a: Method, b: Method, benches: Sequence[str], values: Values, unit: UnitName | None = None, most: float | None = 1.0
) -> MethodDifference:
    """The difference b - a of some value, mean over benchmarks.

    Args:
        values: returns the value that is compared, for each problem of an evaluation.
        unit: the unit of the result; None is seeds if both methods have several, else problems.
        most: the largest possible difference; None for values without bounds.

    Raises:
        UserError: the unit is seeds, and a method has a single seed.
    """
    both = [(pool(list(map(values, b.of(bench)))), pool(list(map(values, a.of(bench))))) for bench in benches]
    over_problems = suite_difference(both, most=most)
    over_seeds = _over_seeds(a, b, benches, values)
    if unit == "seeds" and over_seeds is None:
        single = next(method.name for method in (a, b) if len(_seed_means(method, benches, values)) < 2)
        raise UserError(f"unit: seeds needs several seeds of each method, and {single} has one; set unit to problems")
    return MethodDifference(over_problems, over_seeds, unit or ("seeds" if over_seeds else "problems"))


def _over_seeds(a: Method, b: Method, benches: Sequence[str], values: Values) -> SeedDifference | None:
    """Paired by seed if both methods share two seeds, else unpaired; None if a method has a single seed."""
    means_a, means_b = _seed_means(a, benches, values), _seed_means(b, benches, values)
    if min(len(means_a), len(means_b)) < 2:
        return None
    common = [seed for seed in means_a if seed in means_b and not isinstance(seed, str)]
    if len(common) >= 2:
        return seed_difference([means_b[seed] - means_a[seed] for seed in common])
    return unpaired_difference(list(means_b.values()), list(means_a.values()))


def _seed_means(method: Method, benches: Sequence[str], values: Values) -> Mapping[int | str, float]:
    """Seed, or run without a known seed -> mean over benchmarks; without seeds that lack a benchmark."""
    by_seed: dict[int | str, dict[str, float]] = {}
    for bench in benches:
        for result in method.of(bench):
            seed = result.home if result.seed is None else result.seed
            means = [fmean(samples) for samples in values(result).values()]
            by_seed.setdefault(seed, {})[bench] = fmean(means)
    return {seed: fmean(means.values()) for seed, means in by_seed.items() if len(means) == len(benches)}
