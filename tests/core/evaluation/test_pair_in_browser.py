"""The page of two evaluations side by side, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_pages import ATTACKS, PAIR, PAIR_PROBLEMS, SamplesPage, pair_runs
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from phfcli.core.evaluation.samples_page import ShownRun, write_pair_page

pytestmark = pytest.mark.slow

FIRST, SECOND = PAIR


@pytest.fixture
def shown(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[SamplesPage]:
    """The page, opened; at the end the browser must have had nothing to complain of."""
    write_pair_page(tmp_path / "pair.html", *pair_runs(), PAIR_PROBLEMS)
    browser.get_log("browser")
    page = SamplesPage(browser, tmp_path / "pair.html")
    page.go()
    yield page
    assert browser.get_log("browser") == []
    assert page.script("return window.hacked") is None


def left(page: SamplesPage, css: str) -> list[int]:
    return [node.rect["x"] for node in page.all(css)]


def test_a_problem_stands_once_with_the_samples_of_both_runs_beside_each_other(shown: SamplesPage) -> None:
    assert shown.texts(".problem h2") == ["p/0", "p/1", "p/2", "p/3"]
    assert shown.texts(".run b")[:2] == [FIRST, SECOND]
    shares = ["2 of 2 samples correct, 100 %", "1 of 2 samples correct, 50 %"]
    assert shown.texts(".share")[:2] == shares
    shown.click(shown.all(".samples > summary")[0])
    shown.wait(lambda: len(shown.all(".sample")) == 4)
    assert shown.texts(".sample .status") == ["correct", "correct", "wrong", "correct"]
    places = [node.rect for node in shown.all(".sample")]
    assert places[0]["y"] == places[2]["y"] < places[1]["y"] == places[3]["y"]
    assert places[0]["x"] == places[1]["x"] < places[2]["x"] == places[3]["x"]
    shown.go(width=390)  # on a phone they stand below each other
    shown.click(shown.all(".samples > summary")[0])
    shown.wait(lambda: len(shown.all(".sample")) == 4)
    assert [node.text for node in shown.all(".columns > *") if node.tag_name == "h3"] == [FIRST, SECOND]
    assert len(set(left(shown, ".sample"))) == 1
    tops = [node.rect["y"] for node in shown.all(".columns > *")]
    assert tops == sorted(tops)
    wide, inner = shown.script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= inner


def test_problems_are_chosen_by_which_run_has_solved_them(shown: SamplesPage) -> None:
    for kind, problem, told in (
        ("first", "p/0", f"over half right with {FIRST} only (1)"),
        ("second", "p/1", f"over half right with {SECOND} only (1)"),
        ("both", "p/2", "over half right with both (1)"),
        ("neither", "p/3", "over half right with neither (1)"),
    ):
        shown.go()
        chosen = Select(shown.one("#solved"))
        chosen.select_by_value(kind)
        assert chosen.first_selected_option.text == told
        assert shown.texts(".problem h2") == [problem]
        assert shown.texts("#shown") == ["1 of 4 problems, 4 of 16 samples"]
        assert shown.script("return location.search") == f"?solved={kind}"
        shown.go(f"?solved={kind}&q=writes&status=correct")
        assert shown.texts(".problem h2") == ([] if kind == "neither" else [problem])
        shown.press(Keys.ESCAPE)
        assert len(shown.all(".problem")) == 4
    shown.go("?solved=neither&q=B writes&status=truncated")
    told = "no text of a truncated sample holds “B writes”, among those over half right with neither"
    assert shown.texts("#shown") == [f"0 of 4 problems, 0 of 16 samples: {told}"]


def test_problems_sort_by_the_gain_of_either_run_and_a_search_opens_its_samples(shown: SamplesPage) -> None:
    order = Select(shown.one("#order"))
    order.select_by_value("second")
    assert shown.texts(".problem h2") == ["p/1", "p/2", "p/3", "p/0"]
    order.select_by_value("first")
    assert shown.texts(".problem h2") == ["p/0", "p/2", "p/3", "p/1"]
    shown.go()
    shown.one("#query").send_keys("B writes")
    shown.wait(lambda: shown.texts("#shown") == ["4 of 4 problems, 8 of 16 samples"])
    assert set(shown.texts(".sample .number")) == {"#0", "#1"}
    assert len(set(left(shown, ".sample"))) == 1  # the second column; the first one stays free
    assert left(shown, ".sample")[0] > 400


def test_links_keys_and_attacks_are_those_of_the_page_of_one_run(shown: SamplesPage) -> None:
    shown.go("#p%2F1/2/0")
    assert shown.texts(".linked .status") == ["correct"]
    assert "B writes" in shown.one(".linked").text
    shown.click(shown.one(".linked .number"))
    assert shown.driver.current_url.endswith("#p%2F1/2/0")
    for harmless in ("#p%2F1/3/0", "#p%2F1/2", "#p%2F1"):
        shown.go(harmless)
        assert shown.all(".linked") == []
        assert len(shown.all(".sample")) == 4
    shown.go()
    shown.press("j")
    shown.press(Keys.ENTER)
    shown.wait(lambda: len(shown.all(".sample")) == 4)
    whole = shown.script("return document.body.innerText")
    assert all(attack in whole for attack in ATTACKS[:3] + ATTACKS[4:])
    assert shown.script("return document.querySelectorAll('img, main a:not([href^=\"#\"]), [onerror]').length") == 0


def test_answers_that_all_differ_have_no_most_frequent_one_and_short_thinking_is_open(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    runs = [
        ShownRun(
            run.name,
            run.summary,
            [
                line | {"answer": str(place), "text": "<think>1 + 1</think>two"}
                for place, line in enumerate(run.samples)
            ],
        )
        for run in pair_runs()
    ]
    write_pair_page(tmp_path / "pair.html", *runs, PAIR_PROBLEMS, "b - a: +1.0 points (over problems)")
    page = SamplesPage(browser, tmp_path / "pair.html")
    page.go()
    assert page.texts(".difference") == ["b - a: +1.0 points (over problems)"]
    assert f"answers of {FIRST}\nall 2 differ" in page.texts(".problem > .pair")
    page.click(page.all(".samples > summary")[0])
    page.wait(lambda: len(page.all(".sample")) == 4)
    assert page.texts(".thinking[open] pre") == ["1 + 1"] * 4
