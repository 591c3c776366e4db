"""Repetition and distinct answers."""

import pytest

from phfcli.core.training.metrics import distinct_answers, repetition


def test_repetition_is_the_share_of_runs_written_before() -> None:
    assert repetition(range(100)) == 0
    assert repetition(range(5)) == 0
    assert repetition([7] * 107) == pytest.approx(0.99)
    assert repetition([*range(50), *range(50)]) == pytest.approx(43 / 93)


def test_distinct_answers_are_counted_by_problem() -> None:
    assert distinct_answers(["1", "1", None, "2", "3", "4"], group=3) == 2
    assert distinct_answers([None, None], group=2) == 0
