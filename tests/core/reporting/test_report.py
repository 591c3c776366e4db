"""The page of a study: complete without scripts, and in a real browser it does what it says and asks no network."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluations import evaluation
from pages import Page
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from phfcli.core.errors import UserError
from phfcli.core.reporting.report_page import write_report
from phfcli.core.runs.flows import Flow, Rollout, save_flow

ATTACK = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>{{ style }}"
PROBLEMS = {  # right samples of the two runs
    "easy": ([1, 1, 1], [1, 1, 1]),
    "gained": ([0, 0, 1], [1, 1, 1]),
    "hard": ([0, 0, 0], [0, 0, 0]),
    "p/10 <b>": ([0, 0, 0], [1, 0, 0]),
}


def flow(run: Path, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    student, teacher = torch.randn(2, 4, 2, 9, 8, generator=generator)
    parts = {"positions": torch.arange(9).expand(2, 9).clone(), "valid": torch.ones(2, 9, dtype=torch.bool)}
    rollouts = [Rollout((1,), (1, 2), tuple(range(9)))] * 2
    save_flow(run, step, Flow(student, teacher, **parts, layers=torch.arange(1, 5), rollouts=rollouts, texts={}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for place, objective in enumerate(("opsd", "phf")):
        run = folder / "runs" / objective
        config = {"objective": objective, "seed": 0, "flow": {"alpha": 0.05 * place, "layers": ATTACK}}
        rows = {problem: right[place] for problem, right in PROBLEMS.items()}
        evaluation(run, rows, config=config, answer=ATTACK if place else "7")
        parts = {"divergence_by_position": [0.1] * 16, "divergence_by_entropy": [0.2] * 8}
        lines = [{"step": step, "loss": 1 / step, "flow": 0.1, "grad_norm": 0.2, **parts} for step in range(1, 301)]
        alarm = {"step": 3, "alarm": "clip", "sentence": f"the clip takes 64%{ATTACK}"}
        (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for step in (50, 100):
            flow(run, step)
    write_report(folder / "report.html", [str(folder / "runs" / name) for name in ("opsd", "phf")], f"Study {ATTACK}")
    return folder / "report.html"


@pytest.mark.slow
def test_the_page_is_complete_without_its_script(study: Path) -> None:
    page = study.read_text()
    assert page.count("<script") == page.count("</script>") == 1
    assert "<img" not in page
    assert page.count("<svg") == 2 + 1 + 3 + 4 + 2 * 9  # scores, differences, pass@k, curves, maps, panels of two flows
    assert "var(--series-0)" in page
    assert page.count('style="') == 0  # which the policy would not allow
    link = "runs/phf/evals/step-000100/aime-n3/samples.html?report=../../../../../report.html"
    assert f'{link}#p%2F10%20%3Cb%3E/0"' in page
    assert "p/10 &lt;b&gt;" in page


@pytest.mark.slow
def test_ids_are_unique(study: Path) -> None:
    ids = re.findall(r' id="([^"]*)"', study.read_text())
    assert len(ids) == len(set(ids))


def test_several_benchmarks_have_a_table_of_methods_with_the_mean_first(tmp_path: Path) -> None:
    for objective, right in (("opsd", 1), ("phf", 2)):
        for bench, more in (("aime", 0), ("hmmt", 1)):
            rows = {f"p{i}": [int(j < right + more) for j in range(4)] for i in range(6)}
            evaluation(tmp_path / objective, rows, bench=bench, config={"objective": objective, "seed": 0})
    write_report(tmp_path / "report.html", [str(tmp_path / name) for name in ("opsd", "phf")], "t")
    first = re.findall(r"<table.*?</table>", (tmp_path / "report.html").read_text(), re.DOTALL)[0]
    cells = [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", first, re.DOTALL)]
    assert cells[:4] == ["method", "Average", "aime", "hmmt"]
    assert [cells[4][:4], *(cell.split(" ")[0] for cell in cells[5:8])] == ["opsd", "37.5", "25.0", "50.0"]


def test_a_run_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """Also one without an evaluation, and under two names."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: embedded\n")
    for first in ("", "A="):
        with pytest.raises(UserError, match=r"B=.*run: is the same run as .*run; give each of them once"):
            write_report(tmp_path / "page.html", [f"{first}{tmp_path}/run", f"B={tmp_path}/./run"], "title")
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, told in (("empty", "neither a run nor evaluated"), ("nowhere", "no such run")):
        with pytest.raises(UserError, match=told):
            write_report(tmp_path / "r.html", [str(tmp_path / name)], "x")
    assert not (tmp_path / "r.html").exists()


# ---- in a browser


@pytest.fixture
def shown(browser: webdriver.Chrome, study: Path) -> Iterator[Page]:
    """The page, opened; at the end the browser must have had nothing to complain of, and no address been asked for."""
    browser.get_log("browser")
    page = Page(browser, study)
    browser.get("about:blank")  # the browser's own first page asks for pictures
    page.requests()
    page.go()
    yield page
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert browser.get_log("browser") == []
    assert page.script("return window.hacked") is None
    assert {url.partition("#")[0] for url in page.requests()} <= {page.url, "about:blank"}


@pytest.mark.slow
def test_everything_is_there(shown: Page) -> None:
    assert shown.texts("h1") == [f"Study {ATTACK}"]
    assert shown.texts("h2") == ["Results", "Training", "Hidden flow", "Problems of aime", "Settings", "Provenance"]
    assert shown.texts("#results tbody tr")[1].startswith("phf aime 58.3")
    assert "phf - opsd +25.0" in shown.texts("#results tbody tr")[2]
    assert len(shown.all("#flow svg")) == 4  # the two main ones of each run; the others are folded
    assert shown.script("return document.querySelectorAll('#flow svg').length") == 18
    assert all(node.get_attribute("aria-label") for node in shown.all("svg"))
    settings = shown.texts("#settings tbody tr")
    assert settings == ["flow.alpha 0.0 0.05", "objective opsd phf"]
    shown.click(shown.one("#settings details > summary"))
    assert f"flow.layers {ATTACK}" in shown.texts("#settings details tbody tr")


@pytest.mark.slow
def test_a_mark_tells_its_value_when_pointed_at(shown: Page) -> None:
    titles = shown.script("return [...document.querySelectorAll('.value > title')].map((node) => node.textContent)")
    assert any(title.startswith("block 1: ") for title in titles)
    assert "phf, aime: 58.3 ± 25.0 %" in titles
    assert "block 2, step 50: " in " ".join(titles)


def first_column(page: Page) -> list[str]:
    return page.texts(".grid tbody th")


@pytest.mark.slow
def test_the_grid_is_sorted_by_mouse_and_by_key(shown: Page) -> None:
    assert first_column(shown) == ["easy", "gained", "hard", "p/10 <b>"]
    headers = {node.text.strip(): node for node in shown.all(".grid thead th")}
    shown.click(headers["range, points"])
    assert headers["range, points"].get_attribute("aria-sort") == "ascending"
    assert shown.texts(".grid td:last-child") == ["0", "0", "33", "67"]
    headers["range, points"].send_keys(Keys.ENTER)
    assert headers["range, points"].get_attribute("aria-sort") == "descending"
    assert shown.texts(".grid td:last-child") == ["67", "33", "0", "0"]
    assert first_column(shown)[:2] == ["gained", "p/10 <b>"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "problems"),
    [
        ("differ", ["gained", "p/10 <b>"]),
        ("gap", ["gained"]),
        ("none", ["hard", "p/10 <b>"]),
        ("all", ["easy"]),
        ("", ["easy", "gained", "hard", "p/10 <b>"]),
    ],
)
def test_grid_and_answers_are_filtered_by_kind(shown: Page, kind: str, problems: list[str]) -> None:
    Select(shown.one(".tools select")).select_by_value(kind)
    assert first_column(shown) == problems
    assert [text.removesuffix(" gold 7") for text in shown.texts(".problem > summary")] == problems
    assert shown.texts(".shown") == [f"{len(problems)} of 4 problems"]


@pytest.mark.slow
def test_the_search_looks_at_names_and_answers(shown: Page) -> None:
    search = shown.one(".tools input")
    search.send_keys("P/10")
    assert first_column(shown) == ["p/10 <b>"]
    search.clear()
    search.send_keys("onerror")
    assert shown.texts(".shown") == ["4 of 4 problems"]


@pytest.mark.slow
def test_a_name_leads_to_the_answers_and_a_number_to_the_samples(shown: Page) -> None:
    shown.wait(lambda: len(shown.all(".grid tbody th a")) > 1)
    shown.click(shown.all(".grid tbody th a")[1])
    opened = shown.one(".problem[open]")
    assert opened.text.splitlines()[0] == "gained gold 7"
    links = shown.all(".problem[open] dd a")
    assert [node.text.split()[0] for node in links] == ["✗", "✗", "✓", "✓", "✓", "✓"]
    assert links[3].text == f"✓ {ATTACK[:60]}…"
    target = (links[2].get_attribute("href") or "").partition("study")[2]
    assert target.endswith("/aime-n3/samples.html?report=../../../../../report.html#gained/2")
    assert "/aime-n3/samples.html?report=../../../../../report.html#easy" in (
        shown.all(".grid td a")[1].get_attribute("href") or ""
    )


@pytest.mark.slow
def test_a_link_to_a_problem_opens_it(shown: Page) -> None:
    shown.go("#p0-2")
    assert shown.one(".problem[open]").text.startswith("hard")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page_and_text_stands_out(shown: Page, width: int, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    shown.go(width=width)
    assert shown.script("return document.documentElement.scrollWidth") <= width
    ink, page = (
        shown.script(f"return getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ink, page)]
    assert abs(light[0] - light[1]) > 400
    assert shown.script("return getComputedStyle(document.querySelector('svg text')).fill") == ink


@pytest.mark.slow
def test_without_scripts_everything_can_be_read(shown: Page) -> None:
    shown.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown.go()
        assert shown.all(".tools") == []
        assert first_column(shown) == ["easy", "gained", "hard", "p/10 <b>"]
        assert len(shown.all("#flow svg")) == 4
        for summary in shown.all("#flow .further > summary"):
            summary.click()
        assert len(shown.all("#flow svg")) == 18
    finally:
        shown.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.slow
def test_alarms_stand_above_the_curves_and_maps_below(study: Path) -> None:
    text = study.read_text()
    assert text.count("the clip takes 64%") == 2
    training = text[text.index('<section id="training">') : text.index('<section id="flow">')]
    assert training.index("opsd: the clip takes") < training.index("<svg")
    for told in ("Divergence by sixteenth of the rollout", "s entropy over training"):
        assert len(re.findall(f"<figcaption>[^<]*{told}", training)) == 2
