"""The samples' page in a real browser: what it shows, and that it only shows it."""

from itertools import product
from pathlib import Path

import pytest
from sample_pages import ATTACK, ATTACKS, PROBLEMS, SUMMARY, SamplesPage, a_sample
from selenium import webdriver
from selenium.common.exceptions import JavascriptException

from phfcli.core.evaluation.samples_page import write_page
from phfcli.core.types import Problem


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
    assert shown.script("return document.querySelectorAll('img, main a:not([href^=\"#\"]), [onerror]').length") == 0
    assert shown.script("return document.scripts.length") == 4 + len(PROBLEMS)


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
def test_each_problem_stands_with_its_gold_and_share_and_opens_to_its_samples(shown: SamplesPage) -> None:
    assert shown.texts(".problem h2") == ["p/1", "p/2", "p/10"]
    shares = ["1 of 3 samples correct, 33 %", "1 of 2 samples correct, 50 %", "0 of 2 samples correct, 0 %"]
    assert shown.texts(".share") == shares
    assert shown.texts("#shown") == ["3 problems, 7 samples"]
    assert len(shown.all(".problem math")) >= 4
    assert shown.script(
        "return document.querySelector('.problem .display mfrac, .problem .display munderover') !== null"
    )
    assert shown.texts(".problem > .pair")[1] == "answers\nall 2 differ"
    shown.click(shown.all(".samples > summary")[0])
    shown.wait(lambda: len(shown.all(".sample")) == 3)
    assert shown.texts(".sample .status") == ["correct", "wrong", "no answer"]
    assert shown.texts(".sample .facts")[0].split("\n") == ["#0", "correct", "5 tokens", f"seed {2**62 + 1}"]
    assert shown.texts(".sample .pair") == ["answer\n4", "answer\n5"]
    shown.go()
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
def test_a_narrow_window_does_not_scroll_sideways(shown: SamplesPage) -> None:
    for width in (400, 360):
        shown.go(width=width)
        shown.open_all()
        for opener in shown.all(".thinking > summary, .all > summary"):
            shown.click(opener)
        wide, inner = shown.script("const page = document.documentElement; return [page.scrollWidth, page.clientWidth]")
        assert wide <= inner <= width


@pytest.mark.slow
def test_text_stands_out_in_both_colour_schemes(shown: SamplesPage) -> None:
    """Every colour of text against every ground it stands on: at least 4.5 to 1."""
    style = "return getComputedStyle(document.documentElement).getPropertyValue"
    inks = ["ink", "quiet", "accent", "correct", "wrong", "no_answer", "truncated", "timeout", "error"]
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        for ink, ground in product(inks, ("page", "sheet")):
            pair = [luminance(shown.script(f"{style}('--{name}')")) for name in (ink, ground)]
            assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5, (scheme, ink, ground)
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, by the definition of WCAG 2."""
    shares = [int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
def test_the_page_leads_back_to_the_report_that_named_it_and_to_no_other_address(shown: SamplesPage) -> None:
    link = "const link = document.querySelector('#back a'); return [link.href, link.parentNode.hidden]"
    shown.go("?report=../my%20study/report.html#p%2F2")
    href, hidden = shown.script(link)
    assert (href.endswith("/my%20study/report.html"), hidden) == (True, False)
    shown.go("?report=javascript:alert(1)//.html")
    assert shown.script(link)[0].startswith("file:")
    for nowhere in ("", "?report=//host/x.html", "?report=x.exe"):
        shown.go(nowhere)
        assert shown.script(link) == ["", True]
