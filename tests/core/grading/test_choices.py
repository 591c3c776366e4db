"""Multiple choices: a letter alone or a label before a delimiter; several letters are no choice."""

import pytest

from phfcli.core.grading import Status, build_grader
from phfcli.grading import Grader

LABELS = {
    "A": ["A", "a", "(A)", "A.", "A)", r"\text{A}", r"\textbf{(A)}", r"\text{Option A}", r"\mathrm{A}"],
    "B": [r"B.\ 12", r"\text{B. } 12", "B) 12", "B: 12", "B, 12", "(B) 12", r"\text{(B) 12}", r"\textbf{B} 12"],
    "C": ["C. both of them", "C. a man and a plan", r"\text{The answer is C}", "Answer: C", "C - because", "C (15)"],
    "D": [r"\mathbf{(D)}\ 7", r"\mathbf{D}", r"\boldsymbol{D}", "D. vitamins A and E", r"\textbf{(D)}~7", r"D)\ 7"],
}
HEDGES = [
    "A, B, and C",
    "A/B",
    r"A \text{ or } C",
    "A and C",
    "A or C",
    "(A), (B)",
    "(A) and (B)",
    "A,B",
    "A B",
    "AB",
    "A. 12 or C. 15",
    "(A) 12, (C) 15",
    r"\text{A and C}",
    r"\text{A}, \text{C}",
    "A; C",
    r"\textbf{(A)}\ 7 \text{ or } \textbf{(B)}\ 8",
    "Option A or C",
    "A) or B)",
    r"A \& C",
    "A or B or C",
    "a or b",
]
NO_CHOICE = ["15", "Carbon", "a man", "because", "x = 5", r"\frac12", "Ab initio"]


@pytest.mark.parametrize("letter", LABELS)
def test_a_label_is_read(letter: str) -> None:
    grader = build_grader("choice")
    for box in LABELS[letter]:
        [right] = grader.grade([(letter, rf"Not \boxed{{X}} but \boxed{{{box}}}")])
        [wrong] = grader.grade([("E", rf"\boxed{{{box}}}")])
        assert (box, right.status, right.answer, wrong.status) == (box, Status.correct, letter, Status.wrong)


@pytest.mark.parametrize("box", HEDGES)
def test_several_letters_are_wrong(box: str) -> None:
    grader = build_grader("choice")
    for gold in "ABC":
        [grade] = grader.grade([(gold, rf"\boxed{{{box}}}")])
        assert (gold, grade.status) == (gold, Status.wrong)


@pytest.mark.parametrize("box", NO_CHOICE)
def test_a_word_is_no_label(box: str) -> None:
    assert build_grader("choice").grade([("A", rf"\boxed{{{box}}}")])[0].status is Status.no_answer


def test_a_label_is_read_beside_a_value(grader: Grader) -> None:
    boxes = [r"\mathbf{(D)}\ 7", r"\textbf{(D)}~7", r"\text{(D) }7", r"D.\ 7", "(D) 7"]
    pairs = [(gold, rf"\boxed{{{box}}}") for box in boxes for gold in ("7", "D", "8", "C")]
    statuses = [grade.status for grade in grader.grade(pairs)]
    assert statuses == [Status.correct, Status.correct, Status.wrong, Status.wrong] * len(boxes)
    assert grader.grade([("D", r"\boxed{(D) 7 \text{ or } (E) 8}")])[0].status is not Status.correct
