"""The scores of an evaluation: Average@n with its standard errors, pass@k, majority."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phfcli.core.errors import UserError
from phfcli.core.evaluation.samples import GradedSample, Key
from phfcli.core.grading import Grading, Status
from phfcli.core.types import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Average:
    """The mean score over problems, each the mean over its samples.

    Attributes:
        stderr: the standard error over problems, as if the problems were drawn again; None for a single problem.
        sampling_stderr: the standard error with these problems, as if only the samples were drawn again; None if a
            problem has a single sample.
    """

    average: float
    stderr: float | None
    sampling_stderr: float | None
    problems: int


def average(scores: Sequence[Sequence[float]]) -> Average:
    """The mean over problems of each problem's mean score. Raises UserError if a problem has no sample."""
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


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """pass@k: the unbiased estimate of the chance that one of k samples is correct, mean over problems.

    Chen et al. (2021), eq. 1.

    Args:
        correct: the number of correct samples of each problem, among n.

    Raises:
        UserError: k or a count of correct samples is out of range.
    """
    if not 1 <= k <= n:
        raise UserError(f"pass@{k} needs at least {max(k, 1)} samples a problem, there are {n}")
    if not correct or not all(0 <= c <= n for c in correct):
        raise UserError(f"pass@{k} needs problems with 0..{n} correct samples each")
    all_draws = math.comb(n, k)
    return math.fsum(1 - math.comb(n - c, k) / all_draws for c in correct) / len(correct)


def pass_at_ks(correct: Sequence[int], n: int) -> dict[int, float]:
    """pass@k for k = 1, 2, 4, 8, ... and n."""
    ks = [2**i for i in range(n.bit_length()) if 2**i < n] + [n]
    return {k: pass_at_k(correct, n, k) for k in ks}


def majority(votes: Sequence[Sequence[int | None]], correct: Sequence[Collection[int]]) -> float:
    """The share of problems whose most frequent answer is correct.

    A tie counts as the share of the tied classes that are correct. A problem without votes counts as wrong.

    Args:
        votes: for each problem the answer class of each sample; None does not vote.
        correct: for each problem the classes that are correct.
    """
    if not votes:
        raise UserError("majority needs at least one problem")
    return math.fsum(_plurality(v, c) for v, c in zip(votes, correct, strict=True)) / len(votes)


def _plurality(votes: Sequence[int | None], correct: Collection[int]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    tied = [vote for vote, count in counts.items() if count == most]
    return sum(vote in correct for vote in tied) / len(tied)


_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)  # of the lengths in a summary


def summarise(
    samples: Mapping[Key, GradedSample], problems: Sequence[Problem], grader: Grading, n: int
) -> dict[str, Any]:
    """The scores and counts of an evaluation; fractions are 0..1, lengths are in tokens."""
    rows = [[samples[p.id, i] for i in range(n)] for p in problems]
    all_samples = [sample for row in rows for sample in row]
    scores = [[float(s["status"] == Status.correct) for s in row] for row in rows]
    mean = average(scores)
    statuses = Counter(s["status"] for s in all_samples)
    cut = sum(map(is_cut, all_samples))
    looped = [sample["looped"] for sample in all_samples if "looped" in sample]  # not those of an earlier version
    return {
        "n": n,
        "problems": len(problems),
        "samples": len(all_samples),
        "average": mean.average,
        "stderr": mean.stderr,
        "sampling_stderr": mean.sampling_stderr,
        "pass_at_k": {str(k): value for k, value in pass_at_ks([int(sum(row)) for row in scores], n).items()},
        "majority": _majority(rows, scores, grader),
        "truncated": cut,
        "truncated_share": cut / len(all_samples),
        "loops_share": sum(looped) / len(looped) if looped else None,
        "completed_average": _completed_average(all_samples),
        "no_answer": statuses[Status.no_answer],
        "grader_failures": statuses[Status.timeout] + statuses[Status.error],
        **_lengths(all_samples),
    }


def is_cut(sample: GradedSample) -> bool:
    """Whether the token limit has cut off a sample; some grading policies grade it nevertheless."""
    return bool(sample["status"] == Status.truncated or sample.get("cut", False))


def score_notes(summary: Mapping[str, Any]) -> list[str]:
    """Warnings about scores that often do not mean what they seem to."""
    bench, n, notes = summary["bench"], summary["n"], []
    if summary["average"] == 0:
        notes.append(
            f"{bench}: no sample is correct; look at a few in samples.html: the gold answers, the prompt or the token "
            "limit may be wrong, or the problems too hard for the model"
        )
    if summary["average"] == 1 and summary["problems"] > 1:
        notes.append(f"{bench}: every sample is correct, so this benchmark cannot show that another model is better")
    if "grading" in summary:
        notes.append(f"{bench}: graded under the policy {summary['grading']}, not under phf's own")
    if summary["sampling"]["temperature"] == 0 and n > 1:
        notes.append(f"{bench}: at temperature 0 the {n} samples of a problem are the same; n=1 gives the same score")
    return notes


def notes_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """The remarks of a summary for readers of the scores, a sentence each."""
    bench, unusable, failures = summary["bench"], summary["unusable_golds"], summary["grader_failures"]
    yield from summary["notes"]
    if unusable:
        yield f"{bench}: problems left out because their gold answers cannot be read: {', '.join(unusable)}"
    if failures:
        yield f"{bench}: {failures} answers were not graded and count as not correct"


def _majority(rows: Sequence[Sequence[GradedSample]], scores: Sequence[Sequence[float]], grader: Grading) -> float:
    votes = [grader.equivalence_classes([s["answer"] for s in row]) for row in rows]
    right = [
        {vote for vote, score in zip(row, row_scores, strict=True) if vote is not None and score}
        for row, row_scores in zip(votes, scores, strict=True)
    ]
    return majority(votes, right)


def _completed_average(samples: Sequence[GradedSample]) -> float | None:
    """The share of correct samples among those that the token limit has not cut off; None if it has cut off all."""
    completed = [s for s in samples if not is_cut(s)]
    return sum(s["status"] == Status.correct for s in completed) / len(completed) if completed else None


def _lengths(samples: Sequence[GradedSample]) -> dict[str, Any]:
    tokens = [s["tokens"] for s in samples]
    quantiles = np.quantile(tokens, _QUANTILES, method="inverted_cdf").tolist()
    return {
        "mean_tokens": sum(tokens) / len(tokens),
        "token_quantiles": {f"{q:g}": int(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }
