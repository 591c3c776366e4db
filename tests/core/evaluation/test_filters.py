"""Search, statuses and order of the samples' page, in a real browser, and the address that keeps them."""

import pytest
from sample_pages import SamplesPage
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select


@pytest.mark.slow
def test_statuses_filter_the_samples_and_stand_in_the_address(shown: SamplesPage) -> None:
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
    shown.go()
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
def test_search_finds_problems_and_samples_and_marks_them(shown: SamplesPage) -> None:
    for query, problems, samples in (
        ("walrus", ["p/1"], 1),  # a sample's text
        ("I PONDER", ["p/1"], 1),  # its thinking
        ("sum_{k=1}", ["p/1"], 3),  # a problem's formula, with all its samples
        ("p/2", ["p/2"], 2),
        ("7777", ["p/2"], 2),
        ("onerror", ["p/10"], 2),
        ("nowhere", [], 0),
    ):
        shown.open_all()
        shown.press("/")
        shown.press(query)
        shown.wait(lambda wanted=problems: shown.texts(".problem h2") == wanted)
        assert len(shown.all(".sample")) == samples, query
        shown.press(Keys.ESCAPE)
    shown.go()
    shown.one("#query").send_keys("ponder")  # in a folded thinking of a folded problem
    shown.wait(lambda: shown.texts(".thinking pre") == ["first I ponder"])
    shown.wait(lambda: shown.script("return CSS.highlights.get('found').size") == 1)
    kinds = shown.script("return [...CSS.highlights.get('found')].map((range) => range.constructor.name)")
    assert kinds == ["StaticRange"]  # live ranges would make every later move of a problem slow
    shown.press(Keys.ESCAPE)
    shown.wait(lambda: shown.all(".sample") == [])  # what the search has opened is closed with it


@pytest.mark.slow
def test_an_address_filters_the_page_as_the_fields_do(shown: SamplesPage) -> None:
    for address, problems, samples in (
        ("?q=walrus", ["p/1"], ["no answer"]),
        ("?q=five", ["p/1"], ["wrong"]),
        ("?status=wrong", ["p/1", "p/10"], ["wrong", "wrong"]),
        ("?q=onerror&status=wrong", ["p/10"], ["wrong"]),
        ("?status=wrong&q=onerror", ["p/10"], ["wrong"]),
        ("?q=onerror&status=wrong,timeout&order=high", ["p/10"], ["wrong", "timeout"]),
        ("?q=%20Sum_%7Bk%3D1%7D%20&status=correct", ["p/1"], ["correct"]),
        ("?q=walrus&status=wrong", [], []),
    ):
        shown.go(address)
        assert shown.texts(".problem h2") == problems, address
        for opener in shown.all(".samples:not([open]) > summary"):
            shown.click(opener)
        shown.wait(lambda wanted=samples: shown.texts(".sample .status") == wanted)
        assert shown.one("#shown").text.startswith(f"{len(problems)} of 3 problems, {len(samples)} of 7 samples")
    for address, told in (
        ("?q=Nowhere", "no text holds “Nowhere”"),
        ("?q=walrus%26status=wrong", "no text holds “walrus&status=wrong”"),  # as some programs write an &
        ("?q=walrus&status=wrong,timeout", "no text of a wrong or timeout sample holds “walrus”"),
        ("?status=error", "no sample is error"),
    ):
        shown.go(address)
        assert shown.texts("#shown") == [f"0 of 3 problems, 0 of 7 samples: {told}"]


@pytest.mark.slow
def test_problems_sort_by_share_and_a_link_takes_off_the_filters_that_hide_where_it_leads(shown: SamplesPage) -> None:
    order = Select(shown.one("#order"))
    order.select_by_value("low")
    assert shown.texts(".problem h2") == ["p/10", "p/1", "p/2"]
    order.select_by_value("high")
    assert shown.texts(".problem h2") == ["p/2", "p/1", "p/10"]
    shown.go()
    shown.click(shown.chip("no_answer"))
    shown.script("location.hash = '#p%2F1/0'")  # its problem is visible, the sample is not
    shown.wait(lambda: shown.texts(".linked .status") == ["correct"])
    shown.click(shown.chip("timeout"))
    shown.script("location.hash = '#p%2F2'")
    shown.wait(lambda: len(shown.all(".problem")) == 3)
