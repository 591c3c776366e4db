"""What no engine can have drawn is refused; what one can have drawn passes as it is."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.rollouts.engine import ImpossibleCompletionError, checked
from phfcli.core.types import Completion, Sampling

VOCABULARY, ENDINGS, MOST = 50, (7, 9), 6
SAMPLING = Sampling(max_new_tokens=MOST)


def check(ids: tuple[int, ...], scores: tuple[float, ...] | None = None, logprobs: bool = True) -> Completion:
    scores = (-1.0,) * len(ids) if scores is None else scores
    return checked(Completion(ids, scores, "stop"), SAMPLING, VOCABULARY, ENDINGS, logprobs)


@pytest.mark.parametrize(
    ("ids", "scores", "words"),
    [
        ((1, 50), None, "the token id 50 outside the vocabulary of 50"),
        ((-1,), None, "the token id -1 outside"),
        ((2**31,), None, "outside the vocabulary"),
        ((10**40,), None, "the token id of more than 18 digits outside"),
        ((1,) * 7, None, "7 tokens where at most 6"),
        ((1, 7, 2), None, "an end-of-sequence token in the middle"),
        ((1, 2), (-1.0,), "1 log-probabilities for 2 tokens"),
        ((1,), (0.5,), "the log-probability 0.5"),
        ((1,), (-math.inf,), "the log-probability -inf"),
        ((1,), (math.nan,), "the log-probability nan"),
    ],
)
def test_the_impossible(ids: tuple[int, ...], scores: Any, words: str) -> None:
    with pytest.raises(ImpossibleCompletionError, match=words):
        check(ids, scores)


def test_an_end_and_a_rounded_zero_are_possible() -> None:
    assert check((1, 7), (0.0, 1e-5)).ids == (1, 7)
    assert check((1, 2), (), logprobs=False).ids == (1, 2)


@given(st.lists(st.integers(-3, 60), max_size=8), st.lists(st.floats(), max_size=8))
def test_whatever_passes_is_sound(ids: list[int], scores: list[float]) -> None:
    try:
        passed = check(tuple(ids), tuple(scores))
    except ImpossibleCompletionError:
        return
    assert all(0 <= token < VOCABULARY for token in passed.ids)
    assert len(passed.ids) == len(passed.logprobs) <= MOST
    assert not set(passed.ids[:-1]) & set(ENDINGS)
    assert all(-math.inf < score < 0.01 for score in passed.logprobs)
