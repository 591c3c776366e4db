"""The tables of docs/grading.md are the policies; each row is graded here."""

import re
from pathlib import Path

import pytest

from phfcli.core.grading.spelling import RULES, normalise
from phfcli.grading import Grade, Grader, Status

DOCUMENT = Path(__file__).parents[3] / "docs" / "grading.md"
_ROW = re.compile(r"\| `(.+?)` \| `(.+?)` \| (\w+) \|")


def _policies() -> dict[str, list[tuple[str, str, str]]]:
    sections: dict[str, list[tuple[str, str, str]]] = {}
    title = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif row := _ROW.fullmatch(line):
            sections.setdefault(title, []).append((row[1], row[2], row[3]))
    return sections


POLICIES = _policies()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_documented_judgement_is_made(policy: str, grader: Grader) -> None:
    rows = POLICIES[policy]
    grades = grader.grade([(gold, rf"so it is \boxed{{{answer}}}.") for gold, answer, _ in rows])
    got = [(gold, answer, str(grade.status)) for (gold, answer, _), grade in zip(rows, grades, strict=True)]
    assert got == rows


def test_the_document_covers_what_it_should() -> None:
    assert len(POLICIES) >= 12
    assert sum(len(rows) for rows in POLICIES.values()) >= 120


def test_golds_of_the_known_benchmarks_equal_themselves(grader: Grader) -> None:
    golds = [
        r"\left( 3, \frac{\pi}{2} \right)", r"p - q", r"\text{Evelyn}", r"\frac{270}7\text{ degrees}", r"6r^2-4r-24",
        r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}", r"10,\!080", r"15\mbox{ cm}^2", r"\frac{3}{56}", "x=5",
        r"(0,9) \cup (9,36)", r"\{1\pm\sqrt{5},-2\}", r"11\sqrt2", r"137 \frac{1}{2}", r"5.4 \text{ cents}", "1,-2",
        r"\frac{3\sqrt{2}}{2} + \left(-3 + \frac{3\sqrt{2}}{2}\right)i", r"\mathbf{0}", "2516_8", ".0000672", r"10\%",
        r"\left( \frac{3}{5}, \frac{8}{3} \right]", r"\cot x", r"\frac{\pi^2 \lambda}{6} ", "4.5e33", "27.0", "073",
        r"864 \mbox{ inches}^2", "np.arcsin(10/13)", r"\$32,\!348", r"x \in [-2,7]", "y = 2x + 3", "-7.5", "1,234",
        r"\frac{1}{3}(a^2 + b^2 + c^2) + 3R^2", r"1-\frac{2}{\pi}", r"\frac{2025!}{2^{1012}}", r"-\frac{1}{2}, 3",
    ]  # fmt: skip
    assert [gold for gold, usable in zip(golds, grader.check_golds(golds), strict=True) if not usable] == []


def test_unusable_golds_are_told(grader: Grader) -> None:
    golds = ["", "  ", "x^", r"\frac{1}{0}", "9^{9^9}", "1" * 3000, r"\sum", "5"]
    assert grader.check_golds(golds) == [False] * 7 + [True]
    assert grader.grade([(gold, r"\boxed{7}") for gold in golds])[:7] == [Grade(Status.bad_gold, "7")] * 7


def test_exact_values_near_each_other_are_told_apart(grader: Grader) -> None:
    """p + q sqrt(r), spelled in another way: equal; one unit of p or q away in a far place: different."""
    same, near = [], []
    for p, q, r in [(1, 2, 3), (-7, 5, 2), (22, -3, 7), (10**12, 1, 5), (3, 10**9, 6)]:
        gold = rf"\frac{{{p} + {q}\sqrt{{{r}}}}}{{10^{{40}}}}"
        same.append((gold, rf"\boxed{{10^{{-40}}\left({q} \sqrt{{{r}}} + {p}\right)}}"))
        near.append((gold, rf"\boxed{{\frac{{{p}+{q}\sqrt{{{r}}}}}{{10^{{40}}}}+\frac{{1}}{{10^{{70}}}}}}"))
    assert {grade.status for grade in grader.grade(same)} == {Status.correct}
    assert {grade.status for grade in grader.grade(near)} == {Status.wrong}


def test_the_rules_have_names_of_their_own() -> None:
    names = [name for name, _ in RULES]
    assert len(set(names)) == len(names)
    assert normalise(r"$\displaystyle\left(\dfrac{1}{2},\,3\right)$.") == r"(\frac{1}{2}, 3 )"


def test_equivalence_classes(grader: Grader) -> None:
    answers = ["1/2", None, "0.5", r"\sqrt2", "x^", r"2^{1/2}", "9^{9^9}", "x^", "3", r"\frac{2}{4}", "4-1", ""]
    assert grader.equivalence_classes(answers) == [0, None, 0, 1, 2, 1, 3, 2, 4, 0, 4, 5]
    assert grader.equivalence_classes([]) == []
    assert grader.equivalence_classes([None, None]) == [None, None]


def test_plain_answers_are_classed_without_a_worker() -> None:
    with Grader() as own:
        assert own.equivalence_classes(["7", "007", "7.0", "8", r"\text{no}", r"\text{No}"]) == [0, 0, 0, 1, 2, 2]
        assert own._pool._workers == []


def test_any_of_several_accepted_answers_counts(grader: Grader) -> None:
    pairs = [
        (("1/2", "7"), r"\boxed{7}"),
        (("1/2", "7"), r"\boxed{8}"),
        (("1/2", "7"), "no box"),
        ("1, 2", r"\boxed{1}"),
    ]
    statuses = [grade.status for grade in grader.grade(pairs)]
    assert statuses == [Status.correct, Status.wrong, Status.no_answer, Status.wrong]
