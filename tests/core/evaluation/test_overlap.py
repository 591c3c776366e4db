"""What a benchmark shares with training data: copies, copies with changed words, and problems that are only alike."""

import pytest

from phfcli.core.evaluation.overlap import find_overlap
from phfcli.core.types import Problem

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
OTHER = "A farmer has seventeen sheep and all but nine die; how many sheep does the farmer now have left?"


def problem(text: str, solution: str = "s", id: str = "x") -> Problem:
    return Problem(id, text, solution, "1")


def test_thirteen_words_in_a_row_are_found_whatever_stands_between_them() -> None:
    bench = [problem(WORDS, id="copied"), problem(OTHER, id="new")]
    written = "Let $\\ONE$, two; three four\nfive six seven eight nine ten eleven (twelve) thirteen. And more."
    found = find_overlap(bench, [problem(written)], "data")
    assert found.shared == ["copied"]
    assert found.ids == ["copied"]
    twelve = " ".join(WORDS.split()[:12])
    assert find_overlap(bench, [problem(f"{twelve} and more")], "data").shared == []


def test_a_solution_that_repeats_the_problem_is_found() -> None:
    assert find_overlap([problem(WORDS)], [problem("Short.", f"We are told: {WORDS}.")], "data").shared == ["x"]


def test_a_copy_with_a_changed_word_is_a_near_duplicate() -> None:
    """18 words have 14 runs of five: a changed last word breaks one of them, one in the middle too many."""
    words = OTHER.split()
    last = " ".join([*words[:-1], "over"])
    [near] = find_overlap([problem(OTHER, id="sheep")], [problem(last, id="7")], "data").near
    runs = len(words) - 4
    assert (near.problem, near.training) == ("sheep", "7")
    assert near.similarity == pytest.approx((runs - 1) / (runs + 1), abs=1e-3)
    middle = " ".join([*words[:7], "or", *words[8:]])
    assert find_overlap([problem(OTHER)], [problem(middle)], "data").near == []


def test_the_most_alike_is_named_and_short_problems_only_where_they_are_the_same() -> None:
    bench = [problem("What is 7 times 8?", id="a"), problem("2 + 2", id="b")]
    training = [problem("What is 7 times 9?", id="1"), problem("what is 7 times 8", id="2"), problem("2 + 3", id="3")]
    found = find_overlap(bench, training, "data")
    assert [(pair.problem, pair.training, pair.similarity) for pair in found.near] == [("a", "2", 1.0)]


def test_the_sentence_counts_and_names() -> None:
    bench = [problem(WORDS, id=f"p{number}") for number in range(7)]
    told = find_overlap(bench, [problem(WORDS)], "train.jsonl").sentence("aime")
    assert told.startswith(
        "aime: 7 of 7 problems were found in train.jsonl (7 share 13 words in a row, 7 are near-dupl"
    )
    assert "p0, p1, p2, p3, p4 and 2 more" in told
    none = find_overlap([problem(OTHER)], [problem(WORDS)], "train.jsonl").sentence("aime")
    assert none == "aime: none of its 1 problems was found in train.jsonl"
