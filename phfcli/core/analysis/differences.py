"""The difference of two methods: paired by problem, by a permutation test, and over training seeds, by Student's t."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev, variance

import numpy as np
from scipy import optimize, stats

from phfcli.core.errors import UserError
from phfcli.core.evaluation.scores import Floats, problem_means, standard_error

_RESAMPLES = 10_000
_CHUNK = 500  # resamples held in memory at once
_MAX_EXACT = 14  # up to so many problems all exchanges are enumerated
_ROUNDING = 1e-12  # two sums of the same terms may differ by so much
_ODDS = 20  # the level of the test, 5%, as one in twenty
_FEWEST = 6  # problems that differ: with fewer, 2 of 2^5 exchanges are more than 5%, and no test can reject
_LEVEL = 0.95  # of the intervals
_POWER = 0.8  # at which a difference counts as detectable
Scores = Mapping[str, Sequence[float]]  # problem id -> scores of its samples


@dataclass(frozen=True)
class PairedDifference:
    """The score of a minus the score of b on the problems that both have.

    Attributes:
        stderr: the standard error over problems; None for a single problem.
        low, high: the 95% interval that inverts the test. Where fewer than six problems differ no test can reject
            anything, and the interval is a bound instead (`bound`): what problems that differ may still be met, as by
            the rule of three. None if differences have no bounds, and for a single problem.
        p_value: two-sided, of a permutation test that exchanges a and b on each problem.
        detectable: the true difference that a test at 5% would find in four of five such comparisons, computed from
            stderr; None if stderr is unknown or zero, or no such test can reject anything.
        p_floor: the smallest p-value that the test can give. It is large where few problems differ; else it comes
            from the limited number of exchanges that are drawn.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float
    problems: int
    detectable: float | None
    p_floor: float
    bound: bool = False


@dataclass(frozen=True)
class SeedDifference:
    """The mean difference over training seeds.

    Attributes:
        stderr, low, high, p_value: by Student's t, low and high at 95%; None for a single seed.
        seeds: the number of pairs, or of the seeds of the smaller group if the seeds are not paired.
        freedom: the degrees of freedom: seeds - 1 for pairs, Welch's for two groups.
        detectable: the true difference that this test at 5% would find in four of five cases.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int
    freedom: float = 0.0
    paired: bool = True
    detectable: float | None = None

    def seeds_for(self, half_width: float) -> int | None:
        """The number of seeds for an interval of this half-width at the present spread; None for a single seed."""
        if self.stderr is None:
            return None
        spread, seeds = self.stderr * math.sqrt(self.seeds), 2
        while _quantile(seeds - 1) * spread / math.sqrt(seeds) > half_width:
            seeds += 1
        return seeds


def paired_difference(a: Scores, b: Scores, seed: int = 0, most: float | None = 1.0) -> PairedDifference:
    """Compares two runs on the problems that they share. The order of the problems does not matter.

    Args:
        seed: of the permutation test.
        most: the largest possible difference; None for values without bounds.

    Raises:
        UserError: the runs share no problem.
    """
    return suite_difference([(a, b)], seed, most)


def suite_difference(
    benches: Sequence[tuple[Scores, Scores]], seed: int = 0, most: float | None = 1.0
) -> PairedDifference:
    """Compares two runs on the mean of their scores on several benchmarks of equal weight.

    The interval assumes the same true difference on every benchmark.

    Raises:
        UserError: the runs share no problem of a benchmark.
    """
    groups = [_differences(a, b) for a, b in benches]
    single = any(len(group) < 2 for group in groups)
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / (len(group) * len(groups))) for group in groups])
    lows, highs = _ends(values, weights, np.random.default_rng(seed))
    patterns, inside = len(lows), int(np.sum((lows <= 0) & (highs >= 0)))
    low, high = (None, None) if single else _interval(lows, highs, most)
    differing = int(np.sum(np.abs(values) > _ROUNDING))
    bound = differing < _FEWEST and not single
    if bound:
        low, high = _bound(groups, low, high, most)
    p_floor = max((2 if len(values) <= _MAX_EXACT else 1) / patterns, min(1.0, 2 / 2**differing))
    stderr = None if single else math.hypot(*(standard_error(group) or 0.0 for group in groups)) / len(groups)
    freedom = len(values) - len(groups)
    return PairedDifference(
        difference=float(np.mean([group.mean() for group in groups])),
        stderr=stderr,
        low=low,
        high=high,
        p_value=inside / patterns,
        problems=len(values),
        detectable=stderr * _detectable(freedom) if stderr and p_floor <= 1 / _ODDS else None,
        p_floor=p_floor,
        bound=bound,
    )


def _differences(a: Scores, b: Scores) -> Floats:
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise UserError("the two runs share no problem: compare runs of the same benchmark")
    return problem_means([a[i] for i in shared]) - problem_means([b[i] for i in shared])


def _ends(values: Floats, weights: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """For each pattern of exchanges the lower and the higher of its two means; the observed pattern has no bounds."""
    parts = [_means(flipped, values, weights) for flipped in _patterns(len(values), rng)]
    means = np.concatenate(parts, axis=1)  # [2, pattern]
    means[np.abs(means) <= _ROUNDING] = 0.0
    low, high = means.min(axis=0), means.max(axis=0)
    trivial = np.isnan(low)
    return np.where(trivial, -np.inf, low), np.where(trivial, np.inf, high)


def _means(flipped: Floats, values: Floats, weights: Floats) -> Floats:
    """The weighted means over the exchanged problems and over the others, [2, pattern]; nan if there are none."""
    masks = np.stack([flipped, 1 - flipped])
    with np.errstate(invalid="ignore"):
        return np.asarray((masks @ (weights * values)) / (masks @ weights))


def _patterns(problems: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yields patterns of exchanges, [pattern, problem] of 0 and 1: all, or the observed one and random ones."""
    if problems <= _MAX_EXACT:
        yield ((np.arange(2**problems)[:, None] >> np.arange(problems)) & 1).astype(float)
        return
    yield np.zeros((1, problems))
    for start in range(0, _RESAMPLES, _CHUNK):
        yield rng.integers(0, 2, (min(_CHUNK, _RESAMPLES - start), problems)).astype(float)


def _interval(lows: Floats, highs: Floats, most: float | None) -> tuple[float | None, float | None]:
    """The interval of the true differences that the test does not reject at 5%."""
    rank = -(-len(lows) // _ODDS) - 1
    low, high = float(np.partition(lows, rank)[rank]), -float(np.partition(-highs, rank)[rank])
    if most is not None:
        low, high = max(low, -most), min(high, most)
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _bound(
    groups: Sequence[Floats], low: float | None, high: float | None, most: float | None
) -> tuple[float | None, float | None]:
    """The interval, widened by what the problems that were not met may hold; None if differences have no bounds."""
    if most is None or low is None or high is None:
        return None, None
    below, above = (fmean(sign * _highest_mean(sign * group, most) for group in groups) for sign in (-1, 1))
    return min(low, below), max(high, above)


def _highest_mean(values: Floats, most: float) -> float:
    """The upper 97.5% bound on the mean of a distribution up to `most`, of whatever shape.

    Learned-Miller and Thomas (2019): the mean if each value's place were a random one of a uniform sample's places. Of
    n equal values it is the exact form of the rule of three, of zeros and ones it is close to Clopper and Pearson's.
    """
    steps = np.diff(np.append(np.sort(values), most))
    ranks = np.flatnonzero(steps > 0)
    widths = np.diff(np.concatenate([[0], ranks + 1, [len(values) + 1]]))
    places = np.random.default_rng(0).gamma(widths, size=(_RESAMPLES, len(widths))).cumsum(axis=1)
    means = most - (places[:, :-1] / places[:, -1:]) @ steps[ranks]
    return float(np.quantile(means, (1 + _LEVEL) / 2))


def seed_difference(differences: Sequence[float]) -> SeedDifference:
    """The mean of paired differences, one for each seed, by Student's t."""
    mean, seeds = fmean(differences), len(differences)
    if seeds < 2:
        return SeedDifference(mean, None, None, None, None, seeds)
    return _students(mean, stdev(differences) / math.sqrt(seeds), seeds, seeds - 1, paired=True)


def unpaired_difference(a: Sequence[float], b: Sequence[float]) -> SeedDifference:
    """The mean of a minus the mean of b by Welch's t, for trainings of different seeds, at least two on each side."""
    parts = [variance(values) / len(values) for values in (a, b)]
    stderr = math.sqrt(sum(parts))
    weight = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    freedom = stderr**4 / weight if weight else float(len(a) + len(b) - 2)
    return _students(fmean(a) - fmean(b), stderr, min(len(a), len(b)), freedom, paired=False)


def common_variance(groups: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """The variance that groups of seeds share, with its degrees of freedom.

    None where Levene's test speaks against one variance (p below 0.05), or where no group has several seeds. The test
    takes groups of three or more: two values lie equally far from their median, whatever their variance.
    """
    several = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    tested = [values for values in several if len(values) > 2]
    with np.errstate(invalid="ignore", divide="ignore"):  # of groups without any spread the p-value is no number
        if len(tested) > 1 and float(stats.levene(*tested).pvalue) < 1 / _ODDS:
            return None
    return (sum((len(v) - 1) * variance(v) for v in several) / freedom, freedom) if several else None


def pooled_difference(a: Sequence[float], b: Sequence[float], shared: tuple[float, int]) -> SeedDifference:
    """The mean of a minus the mean of b by Student's t, with a variance from more groups: see `common_variance`."""
    stderr = math.sqrt(shared[0] * (1 / len(a) + 1 / len(b)))
    return _students(fmean(a) - fmean(b), stderr, min(len(a), len(b)), shared[1], paired=False)


def _students(mean: float, stderr: float, seeds: int, freedom: float, paired: bool) -> SeedDifference:
    half = _quantile(freedom) * stderr
    p_value = float(2 * stats.t.sf(abs(mean) / stderr, freedom)) if stderr else float(mean == 0)
    detectable = _detectable(freedom) * stderr or None
    return SeedDifference(mean, stderr, mean - half, mean + half, p_value, seeds, freedom, paired, detectable)


@lru_cache(maxsize=256)
def _detectable(freedom: float) -> float:
    """The difference, in true standard errors, that a t-test at 5% finds in four of five cases."""
    estimates = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)  # of the standard error
    limits = _quantile(freedom) * estimates

    def missing(shift: float) -> float:
        return float(np.mean(stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift))) - _POWER

    return float(optimize.brentq(missing, 0, 2 * _quantile(freedom) + 4))


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + _LEVEL) / 2, freedom))


def pool(seeds: Sequence[Scores]) -> Scores:
    """Pools the seeds of a method: one seed unchanged; of several seeds the mean of each, on problems that all have."""
    if len(seeds) == 1:
        return seeds[0]
    shared = set.intersection(*(set(scores) for scores in seeds))
    return {
        problem: [math.fsum(scores[problem]) / len(scores[problem]) for scores in seeds] for problem in sorted(shared)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) correction of p-values, which bounds the chance of any false rejection by the level."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
