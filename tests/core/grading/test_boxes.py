"""Which text is the answer, and how plain numbers are read: no worker is involved."""

import contextlib
import string
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.grading.answers import Answer, decide, read
from phfcli.core.grading.exact import Refused, agree, plain_number, rounds
from phfcli.core.grading.latex import enclosure, last_box, last_boxes, split_commas


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("no box", None),
        ("", None),
        (r"\boxed{5}", "5"),
        (r"<think>\boxed{4}</think> so \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed 5", "5"),
        (r"\boxed 42.", "42"),
        (r"$\boxed x$", "x"),
        (r"\boxed xy", None),
        (r"\boxed{ 5 }", "5"),
        (r"\boxed{4} and \boxed{}", None),
        (r"\boxed{4} and \boxed{ }", None),
        (r"\boxed{4} and \boxed{5", None),
        (r"\boxed{4} and \boxed", None),
        (r"\boxed{4} \boxedtext{5}", "4"),
        (r"\boxed{4}, which I put in \boxed as asked", "4"),
        (r"\boxed as asked", None),
        (r"\fbox{5}", None),
        (r"\boxed{5}}}", "5"),
    ],
)
def test_the_last_box_is_the_answer(completion: str, answer: str | None) -> None:
    assert last_box(completion) == answer


@pytest.mark.parametrize(
    ("completion", "boxes"),
    [
        (r"$\boxed{1}$ and $\boxed{2}$.", ["1", "2"]),
        (r"\boxed{1}, \boxed{2}, or \boxed{\frac{1}{2}}", ["1", "2", r"\frac{1}{2}"]),
        (r"first \boxed{1}, but then \boxed{2} and \boxed{3}", ["2", "3"]),
        (r"\boxed{1} is wrong; \boxed{2}", ["2"]),
        ("none", []),
    ],
)
def test_boxes_that_only_and_or_and_commas_join_are_a_list(completion: str, boxes: list[str]) -> None:
    assert last_boxes(completion) == boxes


@given(st.text(), st.text(alphabet=string.ascii_letters + string.digits + " +-^_,"))
def test_a_box_after_any_text_is_found(before: str, content: str) -> None:
    assert last_box(before + rf" \boxed{{{content}}}") == (content.strip() or None)


@given(st.text(max_size=300))
def test_reading_any_text_answers_or_refuses(text: str) -> None:
    last_box(text)
    with contextlib.suppress(Refused):
        assert isinstance(read(text), Answer)


@given(st.integers(-(10**30), 10**30))
def test_an_integer_is_read_in_every_spelling(value: int) -> None:
    gold = read(str(value))
    spellings = [f"{value}.0", f"{value:,}", f"${value}$", rf"\text{{{value}}}", f"m+n={value}", f"{value}."]
    spellings += [f"{value:,}".replace(",", r"{,}"), f"{value:,}".replace(",", r"\,")]
    for spelling in spellings:
        assert decide(gold, read(spelling)) is True, spelling
    assert decide(gold, read(str(value + 1))) is False


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9))
def test_a_fraction_is_its_value(p: int, q: int, k: int) -> None:
    gold = read(f"{p}/{q}")
    assert gold.number is not None
    assert gold.number.value == Fraction(p, q)
    assert decide(gold, read(rf"\frac{{{k * p}}}{{{k * q}}}")) is True
    assert decide(gold, read(rf"\frac{{{k * p + 1}}}{{{k * q}}}")) is False


@given(st.integers(-(10**10), 10**10), st.integers(1, 9))
def test_decimals_of_the_same_places_agree_only_exactly(units: int, step: int) -> None:
    number, next_one = (plain_number(f"{Decimal(u).scaleb(-7):f}") for u in (units, units + step))
    assert number is not None
    assert next_one is not None
    assert agree(number, number)
    assert not agree(number, next_one)
    assert agree(number, next_one) == agree(next_one, number)


@pytest.mark.parametrize(
    ("decimal", "value", "rounded"),
    [("0.333333", "1/3", True), ("0.33333", "1/3", False), ("0.666666", "2/3", False), ("0.666667", "2/3", True)],
)
def test_rounding_needs_six_digits_and_half_a_unit(decimal: str, value: str, rounded: bool) -> None:
    number = plain_number(decimal)
    assert number is not None
    assert rounds(number, Fraction(value)) is rounded


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"4.5\times10^{33}", Fraction(45) * 10**32),
        (r"-1.5 \cdot 10^{-3}", Fraction(-3, 2000)),
        (r"12.5\%", Fraction(1, 8)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"-.\overline{09}", Fraction(-1, 11)),
        ("-1./3", Fraction(-1, 3)),
        ("5.", Fraction(5)),
        ("9" * 1999, Fraction(10**1999 - 1)),
    ],
)
def test_plain_numbers(text: str, value: Fraction) -> None:
    number = plain_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text", ["", ".", "x", "1/0", "1e5", "--5", "5 5", r"10^{99999}", "٢", "1/2/3", r"\frac{1}{0}"]
)
def test_other_texts_are_no_plain_numbers(text: str) -> None:
    assert plain_number(text) is None


def test_brackets() -> None:
    assert split_commas(r"(1,2), \{3, 4\}, f(x,y)") == ["(1,2)", r" \{3, 4\}", " f(x,y)"]
    assert enclosure(r"\{1,2\}") == "{"
    assert enclosure("(1,2]") == "("
    assert enclosure(r"(1,2) \cup (3,4)") is None
    assert enclosure("(1+2)") is None
    assert enclosure(r"\{x : x>0, x<1\}") is None
