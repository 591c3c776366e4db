"""Links and keys of the samples' page, in a real browser."""

from itertools import product
from pathlib import Path

import pytest
from sample_pages import SamplesPage
from selenium import webdriver
from selenium.webdriver.common.keys import Keys


@pytest.mark.slow
def test_a_link_leads_below_the_bar(browser: webdriver.Chrome, written: Path) -> None:
    page = SamplesPage(browser, written)
    for width, fragment in product((1000, 700, 360), ("p%2F2/1", "p%2F10")):
        page.go(width=width)
        page.script(f"location.hash = '{fragment}'")
        page.wait(lambda own=fragment: page.script("return location.hash") == f"#{own}")
        top, bar = page.script(
            "const led = document.querySelector('.linked') || byId.get('p/10').node;"
            "const bar = document.querySelector('.tools');"
            "return [led.getBoundingClientRect().top, bar.getBoundingClientRect().bottom]"
        )
        assert max(bar, 0) <= top < page.script("return innerHeight")


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
def test_a_link_opens_its_sample_and_one_to_no_sample_does_no_harm(shown: SamplesPage) -> None:
    shown.go("#p%2F2/1")
    assert shown.one(".linked .number").text == "#1"
    assert shown.one(".linked").get_attribute("data-status") == "correct"
    assert len(shown.all(".sample")) == 2
    assert 0 <= shown.script("return document.querySelector('.linked').getBoundingClientRect().top") < 400
    shown.click(shown.chip("timeout"))
    shown.script("location.hash = '#p%2F1/2'")
    shown.wait(lambda: shown.texts(".linked .status") == ["no answer"])
    assert len(shown.all(".problem")) == 3
    for fragment in ("#p%2F1", "#p%2F1/99", "#gone/0", "#%", "#"):
        shown.go(fragment)
        assert len(shown.all(".sample")) == (3 if "p%2F1" in fragment else 0), fragment
        assert len(shown.all(".problem")) == 3
    shown.go()
    shown.open_all()
    shown.click(shown.all(".number")[1])
    shown.wait(lambda: shown.texts(".linked .number") == ["#1"])
    assert shown.driver.current_url.endswith("#p%2F1/1")
