"""The difference of two methods with training seeds as the unit: what another training would give.

Samples or problems of several seeds thrown together answer another question, whether these very checkpoints differ:
the spread from one training to the next is not in their error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

_LEVEL = 0.95


@dataclass(frozen=True)
class SeedDifference:
    """The mean over seeds of a difference paired by seed.

    stderr, low, high, p_value: by Student's t with seeds - 1 degrees of freedom; None for a single seed.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int

    def seeds_for(self, half_width: float) -> int | None:
        """How many seeds an interval of this half-width would take if they spread as these do; None for one seed."""
        if self.stderr is None:
            return None
        spread, seeds = self.stderr * math.sqrt(self.seeds), 2
        while _quantile(seeds) * spread / math.sqrt(seeds) > half_width:
            seeds += 1
        return seeds


def seed_difference(differences: Sequence[float]) -> SeedDifference:
    """Of the differences of each seed, two methods trained and evaluated alike but for what is compared."""
    mean, seeds = fmean(differences), len(differences)
    if seeds < 2:
        return SeedDifference(mean, None, None, None, None, seeds)
    stderr = stdev(differences) / math.sqrt(seeds)
    half = _quantile(seeds) * stderr
    p_value = float(2 * stats.t.sf(abs(mean) / stderr, seeds - 1)) if stderr else float(mean == 0)
    return SeedDifference(mean, stderr, mean - half, mean + half, p_value, seeds)


def _quantile(seeds: int) -> float:
    return float(stats.t.ppf((1 + _LEVEL) / 2, seeds - 1))
