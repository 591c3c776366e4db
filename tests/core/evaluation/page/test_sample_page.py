"""The page of samples: what a model wrote is only ever shown, and the page does what it says in a real browser."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from latex2mathml.converter import Converter
from pages import Page
from selenium import webdriver
from selenium.common.exceptions import JavascriptException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from phfcli.core.evaluation.page.formulas import Formulas
from phfcli.core.evaluation.page.sample_page import write_page
from phfcli.core.types import Problem

SUMMARY: dict[str, Any] = {
    "bench": "aime25",
    "target": "runs/phf",
    "step": 100,
    "n": 2,
    "average": 0.5,
    "stderr": 0.25,
    "pass_at_k": {"1": 0.5, "2": 0.75},
    "majority": 0.6,
    "truncated": 3,
    "no_answer": 1234,
    "grader_failures": 0,
    "mean_tokens": 9876.5,
}
ATTACKS = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    r"$\text{<img src=x onerror=window.hacked=1>}$",
    r"$\href{javascript:window.hacked=1}{x}$",
    '<a href="javascript:window.hacked=1">x</a>',
    "<!--<script>window.hacked=1",
    "{{data}}",
)
ATTACK = " ".join(ATTACKS)


def a_sample(problem: str = "p", number: int = 0, **changes: Any) -> dict[str, Any]:
    line = {"problem": problem, "sample": number, "status": "correct", "answer": "4", "tokens": 5, "seed": 2**62 + 1}
    return {**line, "text": "text", "seconds": 1.0, **changes}


def page(problems: list[Problem], samples: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.html"
        write_page(path, SUMMARY if summary is None else summary, problems, samples)
        return path.read_text(encoding="utf-8")


def block(html: str, name: str) -> Any:
    """What the page's script reads under this name."""
    found = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    assert not set("<>&\u2028\u2029") & set(found[0])
    return json.loads(found[0])


def drawn(**changes: Any) -> tuple[dict[str, Any], list[Any]]:
    """The one sample of a page, and the page's formulas."""
    html = page([Problem("p", "2+2?", answer="4")], [a_sample(**changes)])
    return block(html, "samples-0")[0], block(html, "formulas")


def tree_of(latex: str) -> Any:
    _, formulas = drawn(text=f"${latex}$")
    [(source, display, tree)] = formulas
    assert (source, display) == (f"${latex}$", False)
    return tree


def source(parts: list[str | int], formulas: list[Any]) -> str:
    return "".join(part if isinstance(part, str) else formulas[part][0] for part in parts)


PIECES = ["<", "</script>", "<!--", "&lt;", "$", "$$", "\\(", "\\)", "\\[", "\\]", "\\", "{{data}}", "\u2028", "\ud800"]


@settings(max_examples=150)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*PIECES, "x", " ", "\n\n", "\\frac", "^2"])).map("".join)))
def test_any_text_comes_back_from_the_page_and_none_of_it_is_markup(text: str) -> None:
    assume("think>" not in text)  # thinking is told apart: see below
    problem = Problem(text, text, answer=text)
    html = page([problem], [a_sample(text, text=text, answer=text)], {"bench": text, "target": text})
    formulas, [head], [body] = (block(html, name) for name in ("formulas", "problems", "samples-0"))
    assert head["id"] == text
    parts = [head["problem"], head["gold"], body["answer"], body["text"][0]]
    assert [source(part, formulas) for part in parts] == [text] * 4
    assert html.lower().count("</script") == 4  # three blocks and the page's own script
    assert html.count("<!--") == 0


def test_a_page_without_problems_or_figures_can_be_written() -> None:
    html = page([], [], {})
    assert block(html, "problems") == []
    assert "<dd>– ± – %</dd>" not in html  # ASCII
    assert "<dd>&#8211; &#177; &#8211; %</dd>" in html


def test_the_summary_stands_in_the_page() -> None:
    html = page([], [])
    shown = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert shown == {
        "Average@2 &#177; stderr": "50.0 &#177; 25.0 %",
        "pass@2": "75.0 %",
        "majority@2": "60.0 %",
        "truncated": "3",
        "no answer": "1,234",
        "grader failures": "0",
        "mean tokens": "9,876",
    }
    assert "runs/phf, step 100" in html
    assert "&quot;mean_tokens&quot;: 9876.5" in html  # what has no figure of its own can be read all the same


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


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    html = page([Problem("p", ATTACK)], [a_sample(text=ATTACK)])
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', html)
    [style] = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    [script] = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'",
        f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", script)


def test_samples_are_ordered_and_only_those_of_the_problems_are_shown() -> None:
    samples = [a_sample("b", 1, status="wrong"), a_sample("gone"), a_sample("b", 0), a_sample("a", 0, status="error")]
    html = page([Problem("a", "A"), Problem("b", "B"), Problem("c", "C")], samples)
    heads = block(html, "problems")
    assert [head["samples"] for head in heads] == [[[0, "error"]], [[0, "correct"], [1, "wrong"]], []]
    assert heads[0]["gold"] is None


def test_a_seed_keeps_every_digit() -> None:
    assert drawn(seed=2718878764518550271)[0]["seed"] == "2718878764518550271"


@pytest.mark.parametrize(
    ("text", "thinking", "rest"),
    [
        ("<think>\nhm\n</think>\n\n4", "hm", "4"),
        ("hm\n</think>\n\n4", "hm", "4"),  # the prompt has opened it
        ("<think>\nhm", "hm", ""),  # cut by the token limit
        ("<think></think>4", None, "4"),
        ("4 <think>", None, "4 <think>"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
    ],
)
def test_thinking_is_told_from_what_follows(text: str, thinking: str | None, rest: str) -> None:
    sample, _ = drawn(text=text)
    assert sample["thinking"] == (thinking and [thinking, 0, ""])
    assert sample["text"] == [[rest], 0, [""]]


def test_of_a_long_text_both_ends_are_shown() -> None:
    sample, _ = drawn(text=f"<think>a{'b' * 30_000}c</think>d{'e' * 20_000}f")
    assert sample["thinking"] == ["a" + "b" * 9_999, 10_002, "b" * 9_999 + "c"]
    assert sample["text"] == [["d" + "e" * 9_999], 2, ["e" * 9_999 + "f"]]


def test_a_long_answer_is_cut_visibly() -> None:
    assert drawn(answer="1" * 5_000)[0]["answer"] == ["1" * 2_000 + "…"]


def test_of_very_many_samples_shorter_ends_are_shown() -> None:
    html = page([Problem("p", "?")], [a_sample(number=i, text="x" * 10_000 if i == 0 else "x") for i in range(5_000)])
    first, left_out, last = block(html, "samples-0")[0]["text"]
    assert ([len(part) for part in first], left_out, [len(part) for part in last]) == ([3_000], 4_000, [3_000])


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


# ---- in a browser


class SamplesPage(Page):
    def open_all(self) -> None:
        for opener in self.all(".samples:not([open]) > summary"):
            self.click(opener)
        self.wait(lambda: not self.script("return problems.some((p) => !p.drawn)"))

    def chip(self, status: str) -> WebElement:
        return self.one(f'.chips [data-status="{status}"]')


PROBLEMS = [
    Problem("p/1", r"Evaluate $\frac{1}{2}+x^2$ and \[\sum_{k=1}^{n} k\]", answer=r"\frac{3}{4}"),
    Problem("p/10", ATTACK, answer=ATTACK),
    Problem("p/2", "A wide one: $" + "+".join(f"x_{{{i}}}" for i in range(80)) + "$" + "w" * 300, answer="7" * 300),
]
SAMPLES = [
    a_sample("p/1", 0, text="<think>\nfirst I ponder\n</think>\n\nIt is $4$."),
    a_sample("p/1", 1, status="wrong", answer="5", text="<think>" + "y" * 30_000 + "</think>five"),
    a_sample("p/1", 2, status="no_answer", answer=None, text="No idea, says the Walrus"),
    a_sample("p/10", 0, status="wrong", answer=ATTACK, text=f"<think>{ATTACK}</think>{ATTACK}"),
    a_sample("p/10", 1, status="timeout", answer=ATTACK[:40], text=ATTACK),
    a_sample("p/2", 0, status="truncated", answer=None, text="<think>" + "z" * 1_000),
    a_sample("p/2", 1, text="seven " * 400 + "s" * 500, answer="7" * 300),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "samples.html"
    write_page(path, {**SUMMARY, "target": ATTACK, "bench": f"aime {ATTACKS[0]}"}, PROBLEMS, SAMPLES)
    return path


@pytest.fixture
def shown(browser: webdriver.Chrome, written: Path) -> Iterator[SamplesPage]:
    """The page, opened; at the end the browser must have had nothing to complain of."""
    browser.get_log("browser")
    result = SamplesPage(browser, written)
    result.go()
    yield result
    assert browser.get_log("browser") == []
    assert result.script("return window.hacked") is None


@pytest.mark.slow
def test_what_attacks_the_page_is_only_shown(shown: SamplesPage) -> None:
    shown.open_all()
    for opener in shown.all(".thinking > summary"):
        shown.click(opener)
    shown.wait(lambda: len(shown.all(".thinking pre")) == 5)  # a long thinking has two
    whole = shown.script("return document.body.innerText")
    for attack in ATTACKS[:3] + ATTACKS[4:]:
        # target and whole summary (folded), problem, gold, two texts, thinking, answer
        assert whole.count(attack) >= 5, attack
    assert ATTACK in shown.texts(".thinking pre")
    assert "<img src=x onerror=window.hacked=1>" in [node.text for node in shown.all("mtext")]
    assert shown.script("return document.querySelectorAll('img, a:not([href^=\"#\"]), [onerror]').length") == 0
    assert shown.script("return document.scripts.length") == 3 + len(PROBLEMS)


@pytest.mark.slow
def test_even_an_injected_script_could_not_run(browser: webdriver.Chrome, shown: SamplesPage) -> None:
    shown.script(
        "window.refused = []; addEventListener('securitypolicyviolation', (e) => refused.push(e.violatedDirective))"
    )
    shown.script(
        "const node = document.createElement('script'); node.append('window.hacked = 1'); document.body.append(node);"
    )
    with pytest.raises(JavascriptException, match="TrustedHTML"):
        shown.script("document.body.innerHTML = '<img src=x onerror=window.hacked=1>'")
    shown.wait(lambda: len(shown.script("return refused")) >= 2)
    assert shown.script("return window.hacked") is None
    browser.get_log("browser")  # these refusals were wanted


@pytest.mark.slow
def test_each_problem_stands_with_its_gold_and_share(shown: SamplesPage) -> None:
    assert shown.texts(".problem h2") == ["p/1", "p/2", "p/10"]
    shares = ["1 of 3 samples correct, 33 %", "1 of 2 samples correct, 50 %", "0 of 2 samples correct, 0 %"]
    assert shown.texts(".share") == shares
    assert shown.texts("#shown") == ["3 problems, 7 samples"]
    assert len(shown.all(".problem math")) >= 4
    assert shown.script(
        "return document.querySelector('.problem .display mfrac, .problem .display munderover') !== null"
    )


@pytest.mark.slow
def test_an_opened_problem_shows_its_samples(shown: SamplesPage) -> None:
    shown.click(shown.all(".samples > summary")[0])
    shown.wait(lambda: len(shown.all(".sample")) == 3)
    assert shown.texts(".sample .status") == ["correct", "wrong", "no answer"]
    assert shown.texts(".sample .facts")[0].split("\n") == ["#0", "correct", "5 tokens", f"seed {2**62 + 1}"]
    assert shown.texts(".sample .pair") == ["answer\n4", "answer\n5"]


@pytest.mark.slow
def test_thinking_is_folded_until_it_is_opened(shown: SamplesPage) -> None:
    shown.open_all()
    assert shown.all(".thinking pre") == []
    openers = shown.all(".thinking > summary")
    assert openers[0].text == "thinking, 14 characters"
    shown.click(openers[0])
    shown.wait(lambda: shown.texts(".thinking pre") == ["first I ponder"])
    shown.click(openers[1])
    shown.wait(lambda: len(shown.all(".thinking pre")) == 3)
    assert shown.texts(".cut") == ["… 10,000 characters left out, all of them in samples.jsonl"]


@pytest.mark.slow
def test_statuses_filter_the_samples(shown: SamplesPage) -> None:
    shown.open_all()
    shown.click(shown.chip("wrong"))
    assert shown.texts(".sample .status") == ["wrong", "wrong"]
    assert shown.texts(".problem h2") == ["p/1", "p/10"]
    assert shown.texts("#shown") == ["2 of 3 problems, 2 of 7 samples"]
    shown.click(shown.chip("timeout"))
    assert sorted(shown.texts(".sample .status")) == ["timeout", "wrong", "wrong"]
    assert shown.chip("timeout").get_attribute("aria-pressed") == "true"
    shown.press(Keys.ESCAPE)
    assert len(shown.all(".sample")) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "problems", "samples"),
    [
        ("walrus", ["p/1"], 1),  # a sample's text
        ("I PONDER", ["p/1"], 1),  # its thinking
        ("sum_{k=1}", ["p/1"], 3),  # a problem's formula, with all its samples
        ("p/2", ["p/2"], 2),
        ("7777", ["p/2"], 2),
        ("onerror", ["p/10"], 2),
        ("nowhere", [], 0),
    ],
)
def test_search_finds_problems_and_samples(shown: SamplesPage, query: str, problems: list[str], samples: int) -> None:
    shown.open_all()
    shown.press("/")
    shown.press(query)
    shown.wait(lambda: shown.texts(".problem h2") == problems)
    assert len(shown.all(".sample")) == samples


@pytest.mark.slow
def test_what_was_found_is_marked(shown: SamplesPage) -> None:
    shown.one("#query").send_keys("ponder")  # in a folded thinking of a folded problem
    shown.wait(lambda: shown.texts(".thinking pre") == ["first I ponder"])
    shown.wait(lambda: shown.script("return CSS.highlights.get('found').size") == 1)
    shown.press(Keys.ESCAPE)
    shown.wait(lambda: shown.all(".sample") == [])  # what the search has opened is closed with it


@pytest.mark.slow
def test_filters_stand_in_the_address(shown: SamplesPage) -> None:
    shown.click(shown.chip("wrong"))
    Select(shown.one("#order")).select_by_value("low")
    shown.one("#query").send_keys("five & more")
    shown.wait(lambda: shown.script("return location.search") == "?q=five+%26+more&status=wrong&order=low")
    shown.go("?q=five&status=wrong,nonsense&order=low#p%2F1")
    assert shown.one("#query").get_attribute("value") == "five"
    assert shown.chip("wrong").get_attribute("aria-pressed") == "true"
    assert shown.texts(".sample .number") == ["#1"]
    shown.press(Keys.ESCAPE)
    shown.wait(lambda: shown.script("return location.search") == "?order=low")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1000, 700, 360])
def test_a_link_leads_below_the_bar(browser: webdriver.Chrome, written: Path, width: int) -> None:
    page = SamplesPage(browser, written)
    page.go(width=width)
    for fragment in ("p%2F2/1", "p%2F10"):
        page.script(f"location.hash = '{fragment}'")
        page.wait(lambda own=fragment: page.script("return location.hash") == f"#{own}")
        top, bar = page.script(
            "const led = document.querySelector('.linked') || byId.get('p/10').node;"
            "const bar = document.querySelector('.tools');"
            "return [led.getBoundingClientRect().top, bar.getBoundingClientRect().bottom]"
        )
        assert max(bar, 0) <= top < page.script("return innerHeight")


@pytest.mark.parametrize("answer", [r"\frac12\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{3}^2", r"2\sqrt3"])
def test_an_answer_is_one_formula_whatever_stands_in_it(answer: str) -> None:
    formulas = Formulas()
    assert formulas.answer(answer) == [0]
    assert formulas.table[0][0] == answer


@pytest.mark.slow
def test_markdown_is_typeset_and_all_else_stays_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    text = (
        "## Step 1: $x$\n**Sum $1+1$** is `2*3*4` and *so on*, 2*3*4 and a*b*c, ** alone\n"
        "- first\n- second \\boxed{\\frac12}\n---\n| a | b |\n|---|:-:|\n| $p$ | <b>q</b> |\nend\n"
        "```python\n**raw** <i>\n```\n\\begin{aligned} a &= b \\\\[2pt] c &= d \\end{aligned}"
    )
    write_page(tmp_path / "page.html", SUMMARY, [Problem("p", "2+2?", answer="4")], [a_sample(text=text)], "<|im|>2+2?")
    shown = SamplesPage(browser, tmp_path / "page.html")
    shown.go()
    shown.open_all()
    assert [" ".join(text.split()) for text in shown.texts(".heading")] == ["Step 1: x"]
    assert ["".join(text.split()) for text in shown.texts(".text strong:not(.heading)")] == ["Sum1+1"]
    assert shown.texts(".text em") == ["so on"]
    assert shown.texts(".text code") == ["2*3*4"]
    assert shown.texts(".text th") == ["a", "b"]
    assert shown.texts(".text td") == ["p", "<b>q</b>"]
    assert shown.texts(".text pre.code") == ["**raw** <i>"]
    assert len(shown.all(".text hr")) == 1
    assert "• first\n• second" in shown.one(".text").text
    assert ", 2*3*4 and a*b*c, ** alone" in shown.one(".text").text
    assert len(shown.all(".text menclose")) == 1
    assert len(shown.all(".text mtable mtr")) == 2
    shown.click(shown.all(".all > summary")[0])
    assert shown.texts(".all pre") == ["<|im|>2+2?"]


@pytest.mark.slow
def test_the_most_frequent_answer_stands_beside_the_gold(shown: SamplesPage) -> None:
    assert shown.texts(".problem > .pair")[1] == "most frequent answer\n4\n1 of 2\ncorrect"


@pytest.mark.slow
def test_problems_sort_by_share(shown: SamplesPage) -> None:
    order = Select(shown.one("#order"))
    order.select_by_value("low")
    assert shown.texts(".problem h2") == ["p/10", "p/1", "p/2"]
    order.select_by_value("high")
    assert shown.texts(".problem h2") == ["p/2", "p/1", "p/10"]


@pytest.mark.slow
def test_keys_move_between_problems_and_open_them(shown: SamplesPage) -> None:
    shown.press("j")
    shown.press("j")
    shown.press(Keys.ENTER)
    shown.wait(lambda: len(shown.all(".sample")) == 2)
    assert shown.all(".sample")[0].get_attribute("data-status") == "truncated"
    shown.press("k")
    shown.press(Keys.ENTER)
    shown.wait(lambda: len(shown.all(".sample")) == 5)


@pytest.mark.slow
def test_a_link_opens_its_sample(shown: SamplesPage) -> None:
    shown.go("#p%2F2/1")
    assert shown.one(".linked .number").text == "#1"
    assert shown.one(".linked").get_attribute("data-status") == "correct"
    assert len(shown.all(".sample")) == 2
    assert 0 <= shown.script("return document.querySelector('.linked').getBoundingClientRect().top") < 400
    shown.click(shown.chip("timeout"))
    shown.script("location.hash = '#p%2F1/2'")
    shown.wait(lambda: shown.texts(".linked .status") == ["no answer"])
    assert len(shown.all(".problem")) == 3


@pytest.mark.slow
def test_a_link_takes_off_the_filters_that_hide_where_it_leads(shown: SamplesPage) -> None:
    shown.click(shown.chip("no_answer"))
    shown.script("location.hash = '#p%2F1/0'")  # its problem is visible, the sample is not
    shown.wait(lambda: shown.texts(".linked .status") == ["correct"])
    shown.click(shown.chip("timeout"))
    shown.script("location.hash = '#p%2F2'")
    shown.wait(lambda: len(shown.all(".problem")) == 3)


@pytest.mark.slow
@pytest.mark.parametrize("fragment", ["#p%2F1", "#p%2F1/99", "#gone/0", "#%", "#"])
def test_a_link_to_no_sample_does_no_harm(shown: SamplesPage, fragment: str) -> None:
    shown.go(fragment)
    assert len(shown.all(".sample")) == (3 if "p%2F1" in fragment else 0)
    assert len(shown.all(".problem")) == 3


@pytest.mark.slow
def test_links_lead_to_what_they_stand_on(shown: SamplesPage) -> None:
    shown.open_all()
    shown.click(shown.all(".number")[1])
    shown.wait(lambda: shown.texts(".linked .number") == ["#1"])
    assert shown.driver.current_url.endswith("#p%2F1/1")


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 360])
def test_a_narrow_window_does_not_scroll_sideways(shown: SamplesPage, width: int) -> None:
    shown.go(width=width)
    shown.open_all()
    for opener in shown.all(".thinking > summary, .all > summary"):
        shown.click(opener)
    wide, inner = shown.script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inner <= width


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_colour_schemes(shown: SamplesPage, scheme: str) -> None:
    """Every colour of text against every ground it stands on: at least 4.5 to 1."""
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    style = "return getComputedStyle(document.documentElement).getPropertyValue"
    inks = ["ink", "quiet", "accent", "correct", "wrong", "no_answer", "truncated", "timeout", "error"]
    for ink in inks:
        for ground in ("page", "sheet"):
            pair = [luminance(shown.script(f"{style}('--{name}')")) for name in (ink, ground)]
            assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5, (ink, ground)
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, by the definition of WCAG 2."""
    shares = [int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
