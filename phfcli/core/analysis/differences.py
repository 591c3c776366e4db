"""The difference of two methods: paired by problem, with its permutation test, and over training seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev, variance

import numpy as np
from scipy import stats

from phfcli.core.errors import UserError
from phfcli.core.evaluation.scores import Floats, problem_means, standard_error

_RESAMPLES = 10_000

_CHUNK = 500  # resamples held in memory at once

_MAX_EXACT = 14  # problems up to which every sign flip is enumerated

_ROUNDING = 1e-12  # two sums of the same terms may differ by this

_ODDS = 20  # one in so many: the level of the test, 5%

_DETECTABLE = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)  # standard errors

Scores = Mapping[str, Sequence[float]]  # problem id to the scores of its samples


@dataclass(frozen=True)
class PairedDifference:
    """Score of a minus score of b on the problems that both have.

    stderr: over problems; None for a single problem.
    p_value: two-sided, by exchanging a and b on each problem: a permutation test.
    p_floor: the smallest p-value that the test can give: too few problems cannot reject, and of many problems not all
        exchanges are tried.
    low, high: the 95% interval that inverts the test; what is possible at all where the test can reject nothing (fewer
        than six problems), and None where that has no bounds, and for a single problem.
    detectable: the true difference that a test at 5% would find in four of five such comparisons, from stderr; None
        where that is not known, is zero, or no such test can reject anything.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float
    problems: int
    detectable: float | None
    p_floor: float


def paired_difference(a: Scores, b: Scores, seed: int = 0, most: float | None = 1.0) -> PairedDifference:
    """Compares two runs (problem id -> scores of its samples) on the problems they share.

    most: the largest difference that is possible; None for values that have no bounds.
    Raises UserError if they share none. The result depends on the seed, not on the order of the problems.
    """
    return suite_difference([(a, b)], seed, most)


def suite_difference(
    benches: Sequence[tuple[Scores, Scores]], seed: int = 0, most: float | None = 1.0
) -> PairedDifference:
    """Compares two runs on the mean of their scores on several benchmarks, each of which weighs the same.

    A supposed difference is that of every benchmark. Raises UserError where the runs share no problem of a benchmark.
    """
    groups = [_differences(a, b) for a, b in benches]
    alone = any(len(group) < 2 for group in groups)
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / (len(group) * len(groups))) for group in groups])
    lows, highs = _ends(values, weights, np.random.default_rng(seed))
    patterns, inside = len(lows), int(np.sum((lows <= 0) & (highs >= 0)))
    low, high = (None, None) if alone else _interval(lows, highs, most)
    p_floor = (2 if len(values) <= _MAX_EXACT else 1) / patterns
    stderr = None if alone else math.hypot(*(standard_error(group) or 0.0 for group in groups)) / len(groups)
    return PairedDifference(
        difference=float(np.mean([group.mean() for group in groups])),
        stderr=stderr,
        low=low,
        high=high,
        p_value=inside / patterns,
        problems=len(values),
        detectable=(stderr or 0) * _DETECTABLE or None if p_floor <= 1 / _ODDS else None,
        p_floor=p_floor,
    )


def pool(seeds: Sequence[Scores]) -> Scores:
    """Runs of one method as one: a single one as it is, of several each one's mean of a problem that all have."""
    if len(seeds) == 1:
        return seeds[0]
    shared = set.intersection(*(set(scores) for scores in seeds))
    return {problem: [math.fsum(own[problem]) / len(own[problem]) for own in seeds] for problem in sorted(shared)}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number: the chance of any false rejection stays at the level (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _differences(a: Scores, b: Scores) -> Floats:
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise UserError("the two runs share no problem: compare runs of the same benchmark")
    return problem_means([a[i] for i in shared]) - problem_means([b[i] for i in shared])


def _ends(values: Floats, weights: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Of each pattern of exchanges the lower and the higher of its two means; the observed one has no ends."""
    found = [_means(flipped, values, weights) for flipped in _patterns(len(values), rng)]
    means = np.concatenate(found, axis=1)  # [2, pattern]
    means[np.abs(means) <= _ROUNDING] = 0.0
    low, high = means.min(axis=0), means.max(axis=0)
    trivial = np.isnan(low)
    return np.where(trivial, -np.inf, low), np.where(trivial, np.inf, high)


def _means(flipped: Floats, values: Floats, weights: Floats) -> Floats:
    """The weighted means over the exchanged problems and over the others, [2, pattern]; nan where there are none."""
    masks = np.stack([flipped, 1 - flipped])
    with np.errstate(invalid="ignore"):
        return np.asarray((masks @ (weights * values)) / (masks @ weights))


def _patterns(problems: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Patterns of exchanges, [pattern, problem] of 0 and 1: all of them, or the observed one and many at random."""
    if problems <= _MAX_EXACT:
        yield ((np.arange(2**problems)[:, None] >> np.arange(problems)) & 1).astype(float)
        return
    yield np.zeros((1, problems))
    for start in range(0, _RESAMPLES, _CHUNK):
        yield rng.integers(0, 2, (min(_CHUNK, _RESAMPLES - start), problems)).astype(float)


def _interval(lows: Floats, highs: Floats, most: float | None) -> tuple[float | None, float | None]:
    """The supposed differences that lie between the means of at least one pattern in twenty."""
    place = -(-len(lows) // _ODDS) - 1
    low, high = float(np.partition(lows, place)[place]), -float(np.partition(-highs, place)[place])
    if most is not None:
        low, high = max(low, -most), min(high, most)
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


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
