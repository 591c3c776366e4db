"""Average@n with its standard errors.

Samples of one problem are not independent draws of a benchmark: the error of a score is clustered by problem, and two
runs on the same problems are compared problem by problem. All values are fractions in 0..1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phfcli.core.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Average:
    """A score over problems x samples.

    stderr: of the benchmark's score, were the problems drawn anew; None for a single problem.
    sampling_stderr: with these very problems, were the samples drawn anew; None if a problem has a single sample.
    """

    average: float
    stderr: float | None
    sampling_stderr: float | None
    problems: int


def average(scores: Sequence[Sequence[float]]) -> Average:
    """The mean over problems of each problem's mean score. Raises UserError where a problem has no sample."""
    means = problem_means(scores)
    return Average(float(means.mean()), standard_error(means), _sampling_stderr(scores), len(means))


def problem_means(scores: Sequence[Sequence[float]]) -> Floats:
    if not scores or not all(len(samples) for samples in scores):
        raise UserError("a score needs at least one problem and at least one sample of each")
    return np.array([math.fsum(samples) / len(samples) for samples in scores])


def standard_error(values: Floats) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _sampling_stderr(scores: Sequence[Sequence[float]]) -> float | None:
    if any(len(samples) < 2 for samples in scores):
        return None
    variances = [float(np.var(samples, ddof=1)) / len(samples) for samples in scores]
    return math.sqrt(math.fsum(variances)) / len(scores)
