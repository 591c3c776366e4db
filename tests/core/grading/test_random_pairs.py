"""Random pairs of known values in all spellings, right and nearly right: no false positive, and what cannot be read."""

import random
from collections import Counter

import pytest
import spellings

from phfcli.grading import Grader, Status

SEED = 20261125


def pairs(count: int) -> list[tuple[str, str, bool]]:
    """(gold, answer, whether they are equal)."""
    draw, made = random.Random(SEED), []
    for _ in range(count):
        kind = draw.random()
        if kind < 0.15:
            text, below = spellings.root(draw)
            gold = draw.choice((below, below, below + draw.choice((-1, 1, 10)), int(str(below)[:1] + "0")))
            made.append((rf"\sqrt{{{gold}}}", text, gold == below))
        elif kind < 0.3:
            text, value = spellings.power(draw)
            other = draw.choice((value, value, value * 10, value + 1, 1 / value))
            made.append((spellings.plain(other), text, other == value))
        else:
            value = spellings.number(draw)
            given = value if draw.random() < 0.5 else spellings.nearly(value, draw)
            gold = (
                str(value.numerator)
                if value.denominator == 1
                else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
            )
            made.append((gold, spellings.spelling(given, draw), given == value))
    return made


def check(grader: Grader, count: int) -> None:
    made = pairs(count)
    grades = grader.grade([(gold, rf"so \boxed{{{answer}}}") for gold, answer, _ in made])
    found: dict[str, list[tuple[str, str]]] = {"false positive": [], "false negative": [], "unread": []}
    for (gold, answer, equal), grade in zip(made, grades, strict=True):
        if grade.status not in (Status.correct, Status.wrong):
            found["unread"].append((gold, answer))
        elif (grade.status == Status.correct) != equal:
            found["false negative" if equal else "false positive"].append((gold, answer))
    assert found == {"false positive": [], "false negative": [], "unread": []}
    assert Counter(equal for _, _, equal in made)[True] > count / 3


def test_no_false_positive_among_random_pairs(grader: Grader) -> None:
    check(grader, 300)


@pytest.mark.slow
def test_no_false_positive_among_further_random_pairs(grader: Grader) -> None:
    check(grader, 2_000)
