"""Computes the scores of an evaluation from its samples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.pass_at_k import majority, pass_at_ks
from phfcli.core.evaluation.sample_file import GradedSample, Key
from phfcli.core.grading import Grader, Status
from phfcli.core.types import Problem

_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


def summarise(
    samples: Mapping[Key, GradedSample], problems: Sequence[Problem], grader: Grader, n: int
) -> dict[str, Any]:
    """The scores and counts of an evaluation; fractions are 0..1, lengths are in tokens."""
    rows = [[samples[p.id, i] for i in range(n)] for p in problems]
    everything = [sample for row in rows for sample in row]
    scores = [[float(s["status"] == Status.correct) for s in row] for row in rows]
    mean = average(scores)
    statuses = Counter(s["status"] for s in everything)
    return {
        "n": n,
        "problems": len(problems),
        "samples": len(everything),
        "average": mean.average,
        "stderr": mean.stderr,
        "sampling_stderr": mean.sampling_stderr,
        "pass_at_k": {str(k): value for k, value in pass_at_ks([int(sum(row)) for row in scores], n).items()},
        "majority": _majority(rows, scores, grader),
        "truncated": statuses[Status.truncated],
        "truncated_share": statuses[Status.truncated] / len(everything),
        "completed_average": _completed_average(everything),
        "no_answer": statuses[Status.no_answer],
        "grader_failures": statuses[Status.timeout] + statuses[Status.error],
        **_lengths(everything),
    }


def _majority(rows: Sequence[Sequence[GradedSample]], scores: Sequence[Sequence[float]], grader: Grader) -> float:
    votes = [grader.equivalence_classes([s["answer"] for s in row]) for row in rows]
    right = [
        {vote for vote, score in zip(row, own, strict=True) if vote is not None and score}
        for row, own in zip(votes, scores, strict=True)
    ]
    return majority(votes, right)


def _completed_average(samples: Sequence[GradedSample]) -> float | None:
    """The share of correct ones among the samples that the token limit has not cut; None if it has cut all."""
    completed = [s for s in samples if s["status"] != Status.truncated]
    return sum(s["status"] == Status.correct for s in completed) / len(completed) if completed else None


def _lengths(samples: Sequence[GradedSample]) -> dict[str, Any]:
    tokens = [s["tokens"] for s in samples]
    quantiles = np.quantile(tokens, _QUANTILES, method="inverted_cdf").tolist()
    return {
        "mean_tokens": sum(tokens) / len(tokens),
        "token_quantiles": {f"{q:g}": int(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }
