"""phf report, as a user would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluations import evaluation

Phf = Callable[..., Any]


def test_a_page_of_two_evaluated_models(phf: Phf, tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluation(tmp_path / name, {"p": [1, 0], "q": [1, 1]})
    done = phf("report", "first=a", "b", "-o", "study/page.html", "--title", "Mine", "--json")
    page = tmp_path / "study" / "page.html"
    assert done.json == {"report": "study/page.html", "bytes": page.stat().st_size}
    text = page.read_text()
    assert "<title>Mine</title>" in text
    assert 'href="../a/evals/step-000100/aime-n2/samples.html?report=' in text
    assert "first" in text
    assert "Hidden flow</h2>" not in text


def test_a_run_that_was_only_trained(phf: Phf, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("objective: opsd\n")
    assert phf("report", "run").out.startswith("report     report.html")
    assert "None of these runs has been evaluated" in (tmp_path / "report.html").read_text()


def test_mistakes_are_told_in_a_line(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", {"p": [1, 0]})
    evaluation(tmp_path / "b", {"p": [1, 0]}, prompt={"template": "other"})
    for arguments, told in (
        (("a", "b"), "unless unequal is set"),
        (("a", "-o", "x.pdf"), "ends in .html"),
        (("nowhere",), "no such run"),
    ):
        done = phf("report", *arguments)
        assert done.code == 2
        assert told in done.err
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()
