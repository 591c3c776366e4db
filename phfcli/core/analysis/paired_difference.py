"""The difference of two runs, paired by problem: its error, its interval and its permutation test."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from phfcli.core.errors import UserError
from phfcli.core.evaluation.average import Floats, problem_means, standard_error

_RESAMPLES = 10_000

_CHUNK = 500  # resamples held in memory at once

_MAX_EXACT = 14  # problems up to which every sign flip is enumerated

_ROUNDING = 1e-12  # two sums of the same terms may differ by this

_DETECTABLE = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)  # standard errors

Scores = Mapping[str, Sequence[float]]  # problem id to the scores of its samples


@dataclass(frozen=True)
class PairedDifference:
    """Score of a minus score of b on the problems that both have.

    stderr, low, high: over problems, the interval being a 95% percentile bootstrap; None for a single problem.
    p_value: two-sided, by exchanging a and b on each problem: a permutation test.
    detectable: the true difference that a test at 5% would find in four of five such comparisons, from stderr; None
        where that is not known, or is zero.
    """

    difference: float
    stderr: float | None
    low: float | None
    high: float | None
    p_value: float
    problems: int
    detectable: float | None


def paired_difference(a: Scores, b: Scores, seed: int = 0) -> PairedDifference:
    """Compares two runs (problem id -> scores of its samples) on the problems they share.

    Raises UserError if they share none. The result depends on the seed, not on the order of the problems.
    """
    return suite_difference([(a, b)], seed)


def suite_difference(benches: Sequence[tuple[Scores, Scores]], seed: int = 0) -> PairedDifference:
    """Compares two runs on the mean of their scores on several benchmarks, each of which weighs the same.

    Problems are drawn anew within their benchmark. Raises UserError where the runs share no problem of a benchmark.
    """
    groups = [_differences(a, b) for a, b in benches]
    rng = np.random.default_rng(seed)
    alone = any(len(group) < 2 for group in groups)
    low, high = (None, None) if alone else _bootstrap(groups, rng)
    # each problem's part of the mean of means
    parts = np.concatenate([group / (len(group) * len(groups)) for group in groups])
    stderr = None if alone else math.hypot(*(standard_error(group) or 0.0 for group in groups)) / len(groups)
    difference = float(np.mean([group.mean() for group in groups]))
    p_value = _sign_flip(parts, rng)
    return PairedDifference(difference, stderr, low, high, p_value, len(parts), (stderr or 0) * _DETECTABLE or None)


def pool(seeds: Sequence[Scores]) -> dict[str, list[float]]:
    """Several runs of one method as one: of each problem that all have, the mean score of every run."""
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


def _bootstrap(groups: Sequence[Floats], rng: np.random.Generator) -> tuple[float, float]:
    means = []
    for size in _chunks():
        drawn = [group[rng.integers(0, len(group), (size, len(group)))].mean(axis=1) for group in groups]
        means.append(np.mean(drawn, axis=0))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _sign_flip(parts: Floats, rng: np.random.Generator) -> float:
    """Share of the sign patterns whose sum is as far from zero as the observed one."""
    problems = len(parts)
    observed = abs(float(parts.sum())) - _ROUNDING
    if problems <= _MAX_EXACT:
        bits = (np.arange(2**problems)[:, None] >> np.arange(problems)) & 1
        return float((np.abs((1 - 2 * bits) @ parts) >= observed).mean())
    extreme = 0
    for size in _chunks():
        signs = 1 - 2 * rng.integers(0, 2, (size, problems))
        extreme += int((np.abs(signs @ parts) >= observed).sum())
    return (extreme + 1) / (_RESAMPLES + 1)  # the observed pattern is one of them


def _chunks() -> Iterator[int]:
    for start in range(0, _RESAMPLES, _CHUNK):
        yield min(_CHUNK, _RESAMPLES - start)
