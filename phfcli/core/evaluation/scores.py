"""Computes the scores of an evaluation from its samples."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.pass_at_k import majority, pass_at_ks
from phfcli.core.evaluation.sample_file import GradedSample, Key
from phfcli.core.grading import Grading, Status
from phfcli.core.types import Problem

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
        notes.append(f"{bench}: at temperature 0 the {n} samples of a problem are the same; --n 1 says as much")
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
