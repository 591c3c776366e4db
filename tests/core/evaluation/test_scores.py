"""The figures of an evaluation, against values worked out by hand."""

import pytest

from phfcli.core.evaluation.scores import summarise
from phfcli.core.grading import Grader
from phfcli.core.types import Problem

PROBLEMS = [Problem("a", "?", answer="1"), Problem("b", "?", answer="2")]


def sample(problem: str, number: int, status: str, answer: str | None, tokens: int) -> dict[str, object]:
    return {"problem": problem, "sample": number, "status": status, "answer": answer, "tokens": tokens}


SAMPLES = [
    sample("a", 0, "correct", "1", 10),
    sample("a", 1, "correct", "01", 20),
    sample("a", 2, "wrong", "7", 30),
    sample("a", 3, "truncated", None, 100),
    sample("b", 0, "wrong", "5", 40),
    sample("b", 1, "wrong", "5.0", 50),
    sample("b", 2, "correct", "2", 60),
    sample("b", 3, "timeout", "2", 70),
]


def test_the_figures() -> None:
    with Grader(workers=1) as grader:
        summary = summarise({(str(s["problem"]), int(str(s["sample"]))): s for s in SAMPLES}, PROBLEMS, grader, 4)
    assert summary["average"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert summary["stderr"] == pytest.approx(0.125)
    assert summary["pass_at_k"]["4"] == 1.0
    assert summary["majority"] == 0.75  # "1" and "01" are one answer; "5" and "5.0" too, which ties with "2" twice
    assert summary["truncated"] == 1
    assert summary["truncated_share"] == pytest.approx(1 / 8)
    assert summary["completed_average"] == pytest.approx(3 / 7)
    assert summary["loops_share"] is None  # of an earlier version
    assert summary["grader_failures"] == 1
    assert summary["mean_tokens"] == pytest.approx(47.5)
    assert summary["token_quantiles"] == {"0.1": 10, "0.5": 40, "0.9": 100, "0.99": 100, "1": 100}


def test_nothing_completed_has_no_average_of_the_completed() -> None:
    cut = {("a", 0): sample("a", 0, "truncated", None, 5)}
    with Grader(workers=1) as grader:
        assert summarise(cut, PROBLEMS[:1], grader, 1)["completed_average"] is None
        looped = {("a", n): sample("a", n, "wrong", "3", 5) | {"looped": n == 0} for n in range(4)}
        assert summarise(looped, PROBLEMS[:1], grader, 4)["loops_share"] == 0.25
