"""What is written into the page of samples: every text comes back from it, and none of it is markup."""

import re
from base64 import b64encode
from hashlib import sha256
from html import unescape

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sample_pages import ATTACK, a_sample, block, drawn, page, source

from phfcli.core.types import Problem

PIECES = ["<", "</script>", "<!--", "&lt;", "$", "$$", "\\(", "\\)", "\\[", "\\]", "\\", "{{data}}", "\u2028", "\ud800"]


@pytest.mark.slow
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
    assert html.lower().count("</script") == 5  # four blocks and the page's own script
    assert html.count("<!--") == 0


def test_a_page_without_problems_or_figures_can_be_written() -> None:
    html = page([], [], {})
    assert block(html, "problems") == []
    assert "<dd>- ± - %</dd>" in html


def test_the_summary_stands_in_the_page() -> None:
    html = page([], [])
    shown = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert shown == {
        "Average@2 ± stderr": "50.0 ± 25.0 %",
        "greedy": "- %",
        "pass@2": "75.0 %",
        "majority@2": "60.0 %",
        "truncated": "3",
        "no answer": "1,234",
        "grader failures": "0",
        "mean tokens": "9,876",
    }
    assert "runs/phf, step 100" in html
    assert "&#34;mean_tokens&#34;: 9876.5" in html  # what has no figure of its own can be read all the same


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    html = page([Problem("p", ATTACK)], [a_sample(text=ATTACK)])
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', html)
    [style] = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    [script] = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    assert unescape(policy).split("; ") == [
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
    assert [head["runs"][0]["samples"] for head in heads] == [[[0, "error"]], [[0, "correct"], [1, "wrong"]], []]
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
