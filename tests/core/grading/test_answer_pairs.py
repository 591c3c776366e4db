"""The pairs of benchmarks/answer_pairs.tsv: answers as models write them, right and nearly right."""

from pathlib import Path

import pytest

from phfcli.grading import Grader, Status

PAIRS = Path(__file__).parents[3] / "benchmarks" / "answer_pairs.tsv"


MISREAD = {  # what no rule covers yet
    (r"\text{blue}", r"\text{the blue one}"),
    (r"\text{Alice}", r"\text{Alice wins}"),
    ("(2,1),(-1,-2)", r"x=2,y=1 \text{ or } x=-1,y=-2"),
    ("(0,0),(1,1)", r"x=y=0 \text{ or } x=y=1"),
    (r"\infty", r"\text{diverges to }\infty"),
    (r"\begin{cases} x & x\ge0 \\ -x & x<0\end{cases}", "|x|"),
}


def check(grader: Grader, rows: list[list[str]]) -> None:
    grades = grader.grade([(gold, rf"so \boxed{{{answer}}}") for _, gold, answer, _ in rows])
    accepted = [row for row, grade in zip(rows, grades, strict=True) if grade.status == Status.correct]
    assert accepted == [row for row in rows if row[3] == "right" and (row[1], row[2]) not in MISREAD]


def _rows() -> list[list[str]]:
    return [line.split("\t") for line in PAIRS.read_text(encoding="utf-8").splitlines()[1:]]


def test_every_ninth_pair_is_judged_as_it_is_marked(grader: Grader) -> None:
    check(grader, _rows()[::9])


@pytest.mark.slow
def test_every_pair_is_judged_as_it_is_marked(grader: Grader) -> None:
    rows = _rows()
    assert len(rows) >= 1500
    check(grader, rows)


def test_what_looks_like_one_of_these_kinds_is_no_other_answer(grader: Grader) -> None:
    """Pairs that a rule of one of these kinds could take for equal, and must not."""
    different = [
        ("5", r"\text{at least }5"), ("5", r"\text{The answer is not } 5"), ("5", "不是5"),
        ("7", r"\text{seven or eight}"),
        ("C", "D"), ("C", "K"), ("a+C", "b+C"), ("A+C", "A+B"), ("2k", "2n"), ("(0,1]", "[0,1["),
        ("5", r"5\text{ million}"),
        ("(1,2)", r"1<x<2 \text{ or } x=5"), (r"\{2,4,8,16\}", r"\{2,4,\ldots,16\}"), ("5.5", "五点五分"), ("1", "1万"),
        ("3", "3分之1"), (r"\$0.05", r"5\text{ cents}"), (r"20\text{ m/s}", r"20\text{ km/h}"),
        ("x>3", r"x>3, x\in\mathbb{Z}"),
        (r"12:00\text{ PM}", r"12:00\text{ AM}"), ("5", r"\text{Alice: }5, \text{Bob: }6"),
        ("1", r"\text{one of them}"),
        (r"2k, k\in\mathbb{Z}", r"3n, n\in\mathbb{Z}"), ("n!", "(n-1)!"), (r"\frac{1}{3}", r"0.33\ldots"),
    ]  # fmt: skip
    grades = grader.grade([(gold, rf"\boxed{{{answer}}}") for gold, answer in different])
    assert [pair for pair, grade in zip(different, grades, strict=True) if grade.status == Status.correct] == []
