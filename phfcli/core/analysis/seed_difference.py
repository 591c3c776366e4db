"""The difference of two methods with training seeds as the unit: what another training would give.

Samples or problems of several seeds thrown together answer another question, whether these very checkpoints differ:
the spread from one training to the next is not in their error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

from scipy import stats

_LEVEL = 0.95
_POWER = 0.8


@dataclass(frozen=True)
class SeedDifference:
    """The mean over seeds of a difference.

    stderr, low, high, p_value: by Student's t; None for a single seed.
    seeds: pairs of seeds, or the seeds of the smaller group where they are not paired.
    freedom: the degrees of freedom: seeds - 1 for pairs, Welch's for two groups.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int
    freedom: float = 0.0
    paired: bool = True
    detectable: float | None = None  # the true difference that this test at 5% would find in four of five cases

    def seeds_for(self, half_width: float) -> int | None:
        """How many seeds an interval of this half-width would take if they spread as these do; None for one seed."""
        if self.stderr is None:
            return None
        spread, seeds = self.stderr * math.sqrt(self.seeds), 2
        while _quantile(seeds - 1) * spread / math.sqrt(seeds) > half_width:
            seeds += 1
        return seeds


def seed_difference(differences: Sequence[float]) -> SeedDifference:
    """Of the differences of each seed, two methods trained and evaluated alike but for what is compared."""
    mean, seeds = fmean(differences), len(differences)
    if seeds < 2:
        return SeedDifference(mean, None, None, None, None, seeds)
    return _students(mean, stdev(differences) / math.sqrt(seeds), seeds, seeds - 1, paired=True)


def unpaired_difference(a: Sequence[float], b: Sequence[float]) -> SeedDifference:
    """The mean of a minus that of b, of trainings of other seeds: Welch's t. Each has two seeds or more."""
    parts = [variance(own) / len(own) for own in (a, b)]
    stderr = math.sqrt(sum(parts))
    weight = sum(part**2 / (len(own) - 1) for part, own in zip(parts, (a, b), strict=True))
    freedom = stderr**4 / weight if weight else float(len(a) + len(b) - 2)
    return _students(fmean(a) - fmean(b), stderr, min(len(a), len(b)), freedom, paired=False)


def _students(mean: float, stderr: float, seeds: int, freedom: float, paired: bool) -> SeedDifference:
    half = _quantile(freedom) * stderr
    p_value = float(2 * stats.t.sf(abs(mean) / stderr, freedom)) if stderr else float(mean == 0)
    detectable = (_quantile(freedom) + float(stats.t.ppf(_POWER, freedom))) * stderr or None
    return SeedDifference(mean, stderr, mean - half, mean + half, p_value, seeds, freedom, paired, detectable)


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + _LEVEL) / 2, freedom))
