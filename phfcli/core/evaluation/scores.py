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


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """The chance that one of k samples is correct, unbiased, averaged over problems (Chen et al. 2021, eq. 1).

    correct: how many of the n samples of each problem are correct.
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

    votes: for each problem the class of each sample's answer; None does not vote. correct: for each problem the classes
    that are correct. A tie counts by the share of the tied classes that are correct; no votes count as wrong.
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


_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


def summarise(
    samples: Mapping[Key, GradedSample], problems: Sequence[Problem], grader: Grading, n: int
) -> dict[str, Any]:
    """The scores and counts of an evaluation; fractions are 0..1, lengths are in tokens."""
    rows = [[samples[p.id, i] for i in range(n)] for p in problems]
    everything = [sample for row in rows for sample in row]
    scores = [[float(s["status"] == Status.correct) for s in row] for row in rows]
    mean = average(scores)
    statuses = Counter(s["status"] for s in everything)
    cut = sum(map(is_cut, everything))
    return {
        "n": n,
        "problems": len(problems),
        "samples": len(everything),
        "average": mean.average,
        "stderr": mean.stderr,
        "sampling_stderr": mean.sampling_stderr,
        "pass_at_k": {str(k): value for k, value in pass_at_ks([int(sum(row)) for row in scores], n).items()},
        "majority": _majority(rows, scores, grader),
        "truncated": cut,
        "truncated_share": cut / len(everything),
        "completed_average": _completed_average(everything),
        "no_answer": statuses[Status.no_answer],
        "grader_failures": statuses[Status.timeout] + statuses[Status.error],
        **_lengths(everything),
    }


def is_cut(sample: GradedSample) -> bool:
    """Whether the token limit has cut a sample; some policies grade it all the same."""
    return bool(sample["status"] == Status.truncated or sample.get("cut", False))


def score_notes(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on scores that often mean something else than they seem to."""
    bench, n, notes = summary["bench"], summary["n"], []
    if summary["average"] == 0:
        notes.append(
            f"{bench}: no sample is correct; look at a few in samples.html: the gold answers, the prompt or the token "
            "limit may be wrong, or the problems of another kind than the model knows"
        )
    if summary["average"] == 1 and summary["problems"] > 1:
        notes.append(f"{bench}: every sample is correct, so this benchmark cannot tell better models from this one")
    if "grading" in summary:
        notes.append(f"{bench}: graded under the policy {summary['grading']}, not by phf's own rules")
    if summary["sampling"]["temperature"] == 0 and n > 1:
        notes.append(f"{bench}: at temperature 0 the {n} samples of a problem are the same; n=1 gives the same score")
    return notes


def notes_of(summary: Mapping[str, Any]) -> Iterator[str]:
    """What somebody who reads the scores should know, a sentence each."""
    bench, unusable, failures = summary["bench"], summary["unusable_golds"], summary["grader_failures"]
    yield from summary["notes"]
    if unusable:
        yield f"{bench}: left out, since their gold answers cannot be read: {', '.join(unusable)}"
    if failures:
        yield f"{bench}: {failures} answers were not graded and count as not correct"


def _majority(rows: Sequence[Sequence[GradedSample]], scores: Sequence[Sequence[float]], grader: Grading) -> float:
    votes = [grader.equivalence_classes([s["answer"] for s in row]) for row in rows]
    right = [
        {vote for vote, score in zip(row, own, strict=True) if vote is not None and score}
        for row, own in zip(votes, scores, strict=True)
    ]
    return majority(votes, right)


def _completed_average(samples: Sequence[GradedSample]) -> float | None:
    """The share of correct ones among the samples that the token limit has not cut; None if it has cut all."""
    completed = [s for s in samples if not is_cut(s)]
    return sum(s["status"] == Status.correct for s in completed) / len(completed) if completed else None


def _lengths(samples: Sequence[GradedSample]) -> dict[str, Any]:
    tokens = [s["tokens"] for s in samples]
    quantiles = np.quantile(tokens, _QUANTILES, method="inverted_cdf").tolist()
    return {
        "mean_tokens": sum(tokens) / len(tokens),
        "token_quantiles": {f"{q:g}": int(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }
