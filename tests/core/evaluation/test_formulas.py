"""Formulas of a page: found in texts, turned into vetted MathML, or left as LaTeX."""

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from latex2mathml.converter import Converter
from sample_pages import drawn, source

from phfcli.core.evaluation.formulas import Formulas


def tree_of(latex: str) -> Any:
    _, formulas = drawn(text=f"${latex}$")
    [(source, display, tree)] = formulas
    assert (source, display) == (f"${latex}$", False)
    return tree


@pytest.mark.parametrize(
    "latex", [r"\begin{aligned}a&=b\\c&=d\end{aligned}", r"\begin{gathered}a\\b\end{gathered}", r"\bigl(x\bigr]"]
)
def test_what_models_write_often_is_typeset(latex: str) -> None:
    assert tree_of(latex) is not None


@pytest.mark.parametrize(
    "bare", [r"\boxed{\frac{1}{2}}", r"\begin{align*}a&=b\end{align*}", r"\begin{cases}1&x\\2&y\end{cases}"]
)
def test_boxes_and_environments_need_no_dollars(bare: str) -> None:
    body, formulas = drawn(text=f"so {bare} ends")
    assert body["text"][0] == ["so ", 1, " ends"] or body["text"][0] == ["so ", 0, " ends"]
    assert [(own, tree is not None) for own, _, tree in formulas] == [(bare, True)]


@pytest.mark.parametrize("open_", [r"\boxed{1", r"\begin{align}a&=b", r"\boxed 5"])
def test_what_is_not_closed_stays_text(open_: str) -> None:
    assert drawn(text=open_)[0]["text"][0] == [open_]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("so $x$ is", ["so ", 0, " is"]),
        (r"\(x\)", [0]),
        ("$$x$$$y$", [0, 1]),
        ("$x$ and $x$", [0, " and ", 0]),
        ("from $5 to $7", ["from $5 to $7"]),
        ("$ x $", [0]),
        (r"a \$5 $x \$$", [r"a \$5 ", 0]),
        ("$a\n\nb$", ["$a\n\nb$"]),
        ("$$", ["$$"]),
        (r"\[x", [r"\[x"]),
        (r"line \\[2pt] x\]", [r"line \\[2pt] x\]"]),
    ],
)
def test_formulas_are_found_in_text(text: str, parts: list[str | int]) -> None:
    assert drawn(text=text)[0]["text"][0] == parts


def test_formulas_on_their_own_lines_are_told_from_those_within() -> None:
    assert [display for _, display, _ in drawn(text=r"$a$ $$b$$ \(c\) \[d\]")[1]] == [False, True, False, True]


@pytest.mark.parametrize(("answer", "formulas"), [("12", 0), ("\\frac{1}{2}", 1), ("x^2", 1), ("$x$", 1), ("Ann", 0)])
def test_an_answer_needs_no_dollars_to_be_a_formula(answer: str, formulas: int) -> None:
    sample, table = drawn(answer=answer)
    assert len(table) == formulas
    assert source(sample["answer"], table) == answer


def test_a_formula_becomes_mathml() -> None:
    half = ["mfrac", {}, ["mn", {}, "1"], ["mn", {}, "2"]]
    assert tree_of(r"\frac12") == ["math", {"display": "inline"}, ["mrow", {}, half]]
    assert tree_of(r"x\le y")[2][3] == ["mo", {}, "≤"]


def test_markup_within_a_formula_stays_text() -> None:
    assert tree_of(r"\text{<script>}")[2][2] == ["mtext", {}, "<script>"]


@pytest.mark.parametrize(
    "latex",
    [
        r"\href{javascript:alert(1)}{x}",
        r"\style{position:fixed}{x}",
        r"\class{problem}{x}",
        r"\color{red}{x}",
        r"\phantom{hidden}",
        r"\hspace{9999em}",
        r"\unknowncommand{x}",
        r"\text{\unknowncommand}",
        r"\newcommand{\a}{\b\b}\newcommand{\b}{\c\c}\a",
        r"\def\a{\a\a}\a",
        "5% of this is lost",
        r"\binom52",
        "x_1_2",
        "{" * 100 + "x" + "}" * 100,
        "{" * 900 + "x" + "}" * 900,
        "x" * 2_001,
    ],
)
def test_what_cannot_be_shown_as_a_formula_stays_latex(latex: str) -> None:
    assert tree_of(latex) is None


def hostile(name: str, **attributes: str) -> Callable[..., Element]:
    def convert(*_: object) -> Element:
        math = Element("math")
        SubElement(math, name, attributes)
        return math

    return convert


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("script", {}),
        ("annotation-xml", {"encoding": "text/html"}),
        ("semantics", {}),
        ("maction", {}),
        ("MI", {}),
        ("mi", {"href": "javascript:alert(1)"}),
        ("mi", {"{http://www.w3.org/1999/xlink}href": "x"}),
        ("mi", {"onclick": "alert(1)"}),
        ("mi", {"style": "color:red"}),
        ("mi", {"id": "list"}),
        ("mspace", {"width": "url(x)"}),
        ("mspace", {"width": "1em\n"}),
    ],
)
def test_only_harmless_mathml_passes(monkeypatch: pytest.MonkeyPatch, name: str, attributes: dict[str, str]) -> None:
    monkeypatch.setattr(Converter, "convert_to_element", hostile(name, **attributes))
    assert tree_of("x") is None


def test_the_hostile_converter_of_these_tests_passes_what_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Converter, "convert_to_element", hostile("mspace", width="1.125em"))
    assert tree_of("x") == ["math", {}, ["mspace", {"width": "1.125em"}]]


@pytest.mark.parametrize("answer", [r"\frac12\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{3}^2", r"2\sqrt3"])
def test_an_answer_is_one_formula_whatever_stands_in_it(answer: str) -> None:
    formulas = Formulas()
    assert formulas.answer(answer) == [0]
    assert formulas.table[0][0] == answer
