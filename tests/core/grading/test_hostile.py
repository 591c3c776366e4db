"""Answers written to hang, crash or take over the grader: each gets a status, in time, and none is executed."""

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phfcli.core.grading.answers import read, read_if_short
from phfcli.core.grading.exact import MAX_SHORT, Refused
from phfcli.grading import Grader, Status

TIMEOUT_S = 2.0
GOLDS = ["204", r"\frac{\sqrt{2}}{2}", "x^2+1"]


def _calls(marker: Path) -> list[str]:
    call = f"__import__('os').system('touch {marker}')"
    return [
        call, f"eval({call!r})", f"1+{call}", f"(1).__class__({call})", rf"\text{{{call}}}", rf"\mathrm{{{call}}}(3)",
        rf"\operatorname{{{call}}}", rf"\operatorname{{{call}}}(x)", rf"\frac{{{call}}}{{2}}", f"{{{call}}}^2",
        f"${call}$", f"S('{call}')", f"sympify({call})", f"np.{call}", f"lambda: {call}", f"{call}=5",
        f"`touch {marker}`", f"$(touch {marker})", rf"\write18{{touch {marker}}}", rf"\input{{|touch {marker}}}",
        f"; touch {marker}", f"f({call},{call})", rf"\sin({call})", rf"\int {call} dx", rf"x_{{{call}}}",
        rf"\begin{{pmatrix}}{call}\end{{pmatrix}}",
    ]  # fmt: skip


HUGE_VALUES = [
    "9^{9^9}", "9^9^9", "9^{9^{9^9}}", "(9^9)^{9^9}", "10^{10^{10}}", "2^{2^{2^{2^{2^2}}}}", "(10^9)!", "(10^8)!",
    "100000000!", "((10!)!)!", "10!!!!", "(2^{30})!", "1e999999999", "1e-999999999", "10^{999999}", "2^{99999}",
    r"\binom{10^9}{10^8}", r"\sum_{n=1}^{10^9} n^n", r"\prod_{n=1}^{10^7} n", r"\sqrt[10^9]{10^{10}}", r"\sin(10^{99})",
    r"\gcd(10^{50},10^{49})", r"10^{50} \bmod 7", r"\Gamma(10^9)", "(x+1)^{9999}", "(x+y+z)^{99}", "x^{9999}-1",
]  # fmt: skip
NO_VALUES = [
    r"\frac{1}{0}", "0/0", "1/0", "0^0", r"\infty-\infty", r"\log 0", r"\tan\frac{\pi}{2}", "(-1)!", "i^{i^i}", "nan",
    r"\log_1 5", r"7 \pmod{0}", "5_0", "1:0",
    r"\int", r"\lim_{x\to 0}", r"\sum", r"\frac{d}{dx}", "None", "True", "inf",
]  # fmt: skip
SHAPES = [
    "{" * 5000 + "}" * 5000, "{" * 30 + "5" + "}" * 30, "(" * 500 + "5" + ")" * 500,
    r"\sqrt{" * 300 + "2" + "}" * 300, r"\frac{1}{1+" * 19 + "1" + "}" * 19, "x^{" * 25 + "2" + "}" * 25,
    r"\pm " * 500 + "1", "\\" * 1998, r"\left(" * 200, "$" * 1001, "%" * 900, "!" * 900, "^" * 1500, "_" * 1500,
    "&" * 1500, "=" * 1500, "5=" * 700, r"\frac" * 300, r"\text{" * 300 + "}" * 300, r"\boxed{" * 900 + "}" * 900,
    "A" * 1_000_000, "9" * 1_000_000, "9" * 1999, "0" * 1999 + "5", "1." + "3" * 1900, "{}" * 500_000, " " * 1_000_000,
    r"\{" * 200 + r"\}" * 200, "|" * 50, r"\begin{matrix}" * 100, r"\begin{pmatrix}1\end{pmatrix}", "(,)", "[,", "{,}",
    ",", ";", ":", "'\"", r"\%", "%", r"\def\x{\x}\x", r"\newcommand", r"\catcode`\@=11", "<script>", r"\href{x}{y}",
]  # fmt: skip
CHARACTERS = [
    "\0", "5\0", "\x1b[31m5", "5\ud800", "\udcff", "\u202e402", "\uff15", "\u0662\u0660\u0665", "\U0001d7d3", "5\u0301",
    "\u00bd", "\u2164", "\u200b5\u200b", "5\r\n6", "\t5\t", "\x7f", "\ufffe", "\U0001f600", "5\U0001f600", "\x85",
]  # fmt: skip
SLOW = [
    "(" * 18 + "5" + ")" * 18,
    "-" * 1999,
    "1+" * 900 + "1",
    "x" * 1999,
    "|x|" * 50,
    "e^{e^{e^{e^{e}}}}",
    "1,x," * 450 + "1",
]
UNBOXED = [
    r"\boxed",
    r"\boxed{",
    r"\boxed{5",
    r"\boxed{{5}",
    r"\boxed}",
    r"\boxed{5}\boxed{",
    r"\boxed{\}",
    r"\boxed\{5\}",
]


def _random_answers(count: int) -> list[str]:
    rng = random.Random(0)
    pieces = [r"\frac{", r"\sqrt{", "}", "{", "(", ")", "^", "_", "9", "10", "!", r"\pm", "x", "i", "e", ",", "=", " "]
    pieces += [r"\left", r"\right", r"\{", r"\}", r"\text{", "%", r"\%", r"\infty", "\\", "&", r"\pi", ".", "|", "<"]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def strict() -> Iterator[Grader]:
    with Grader(workers=2, timeout_s=TIMEOUT_S) as shared:
        yield shared


def _grade_all(grader: Grader, golds: list[str], answers: list[str], marker: Path) -> None:
    pairs = [(gold, rf"\boxed{{{answer}}}") for gold in golds for answer in answers]
    start = time.monotonic()
    grades = grader.grade(pairs)
    elapsed = time.monotonic() - start
    assert len(grades) == len(pairs)
    assert elapsed < len(pairs) / 2 * TIMEOUT_S + 60
    allowed = {Status.wrong, Status.no_answer, Status.error, Status.timeout}
    assert {grade.status for grade in grades} <= allowed
    overran = sum(grade.status == Status.timeout for grade in grades)
    assert elapsed < (overran + 2) * (TIMEOUT_S + 8) + 60  # what the limits do not refuse is quick
    assert not marker.exists()


def test_nothing_in_an_answer_is_executed(strict: Grader, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    _grade_all(strict, ["204"], _calls(marker), marker)


@pytest.mark.slow
def test_what_the_limits_refuse_or_need_no_parser_takes_no_time(strict: Grader, tmp_path: Path) -> None:
    answers = HUGE_VALUES[:15] + SHAPES + CHARACTERS + _random_answers(40)
    _grade_all(strict, ["204"], answers, tmp_path / "executed")


UNITS = [
    "0", "1.", "1,", "9 ", " ", "0np.", "1e2^", "a", r"\text{", r"\$", "1 1/2", "{,}", "sq ", "，", "²", "{", "and ",
    "千", "**", "`", r"\\", "<b>", r"\pm", r"\text{or}", "(1,2)", r"{a\over", "x<", "million ",
]  # fmt: skip


@pytest.mark.slow
def test_no_long_text_is_read_in_the_calling_process(strict: Grader) -> None:
    """No clock stops the calling process: it reads short texts alone, and a worker, under its clock, the others."""
    texts = [(unit * 1999)[:1999] + end for unit in UNITS for end in ("", "!", "}")]
    assert all(reading.unread for text in texts if (reading := read_if_short(text)))
    before = time.process_time()
    grades = strict.grade([("5", rf"\boxed{{{text}}}") for text in texts[::9]] + [(texts[3], r"\boxed{5}")])
    assert time.process_time() - before < 1.0  # of this process, whatever else the machine does
    assert Status.correct not in {grade.status for grade in grades}


def test_a_short_text_is_read_at_once() -> None:
    before = time.process_time()
    for unit in UNITS:
        for end in ("", "!", "x", "%"):
            with contextlib.suppress(Refused):
                read((unit * MAX_SHORT)[: MAX_SHORT - 1] + end)
    assert time.process_time() - before < 0.1 * 4 * len(UNITS)


def test_a_long_answer_is_judged_like_a_short_one(strict: Grader) -> None:
    many = ", ".join(str(10**99 + n) for n in range(4))
    other = ", ".join(str(10**99 + n) for n in reversed(range(4)))
    right, near = rf"\{{{many}\}}", rf"\{{{other.replace('3,', '9,')}\}}"
    assert len(many) > MAX_SHORT
    pairs = [(right, rf"\boxed{{\{{{other}\}}}}"), (right, rf"\boxed{{{near}}}"), ("7", rf"\boxed{{7{' ' * 900}}}")]
    unit = r"\boxed{\text{the answer is }" + r"\," * 200 + r"5\text{ m}}"
    pairs += [("5 cm", unit), ("x^" + "(" * 400, r"\boxed{5}")]
    statuses = [grade.status for grade in strict.grade(pairs)]
    assert statuses == [Status.correct, Status.wrong, Status.correct, Status.wrong, Status.bad_gold]
    assert strict.check_golds([right, "x^" + "(" * 400, "1" * 3000]) == [True, False, False]
    assert strict.equivalence_classes([right, near, rf"\{{{other}\}}"]) == [0, 1, 0]


def test_a_text_without_a_closed_box_has_no_answer(strict: Grader) -> None:
    assert {grade.status for grade in strict.grade([("5", text) for text in UNBOXED])} == {Status.no_answer}


def test_hostile_golds_are_bad_golds(strict: Grader, tmp_path: Path) -> None:
    golds = ["9^{9^9}", "(10^9)!", "", "\0", "{" * 500, "A" * 1_000_000, *_calls(tmp_path / "executed")[:3]]
    assert {grade.status for grade in strict.grade([(gold, r"\boxed{5}") for gold in golds])} == {Status.bad_gold}
    assert not any(strict.check_golds(golds))
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_every_hostile_answer_against_a_gold(strict: Grader, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    answers = [*_calls(marker), *HUGE_VALUES[15:], *NO_VALUES, *SLOW, *_random_answers(100)[40:]]
    assert len(answers) > 100
    for i, gold in enumerate(GOLDS):  # each answer against one of the golds, for it is the answer that takes the time
        _grade_all(strict, [gold], answers[i :: len(GOLDS)], marker)
