"""The page that the browser tests of this folder look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_pages import ATTACK, ATTACKS, PROBLEMS, SAMPLES, SUMMARY, SamplesPage
from selenium import webdriver

from phfcli.core.evaluation.samples_page import write_page


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
