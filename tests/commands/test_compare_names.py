"""What runs and models are called by phf compare and phf report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluations import SOME, evaluation

Phf = Callable[..., Any]


def test_runs_whose_folders_have_one_name_are_told_apart(phf: Phf, tmp_path: Path) -> None:
    for place in ("here/base", "there/base"):
        evaluation(tmp_path / place, SOME)
    evaluation(tmp_path / "there" / "base", SOME, step=50)
    [pair] = phf("compare", "here/base", "there/base", "--json").json["pairs"]
    assert (pair["a"], pair["b"], pair["difference"]) == ("base", "base (there)", 0)
    steps = [f"there/base/evals/step-{step:06d}/aime-n2" for step in (50, 100)]
    assert [row["name"] for row in phf("compare", *steps, "--json").json["rows"]] == ["base", "base (100)"]
    assert [row["name"] for row in phf("compare", "x=here/base", "x=there/base", "--json").json["rows"]] == [
        "x",
        "x (base)",
    ]


@pytest.mark.slow
def test_a_model_is_called_as_its_folder_in_tables_pictures_and_pages(phf: Phf, tmp_path: Path) -> None:
    phf("eval", "embedded", "--limit", 2, "--n", 1, "--quiet", "--engine", "transformers", "--output-dir", "runs/base")
    [folder] = tmp_path.glob("runs/base/evals/embedded-n1")
    assert json.loads((folder / "summary.json").read_text())["target"] == "base"
    assert "<title>embedded: samples of base</title>" in (folder / "samples.html").read_text()
    rows = {name: [1] for name in ("eval-0000", "eval-0001")}
    evaluation(
        tmp_path / "other",
        rows,
        bench="embedded",
        bench_sha256=json.loads((folder / "settings.json").read_text())["bench_sha256"],
    )
    told = json.loads((folder / "summary.json").read_text()) | {"target": "embedded"}  # as versions before wrote it
    (folder / "summary.json").write_text(json.dumps(told))
    for view in ("runs", "methods"):
        done = phf("compare", "runs/base", "other", "--unequal", "--view", view, "--plot", "t.svg", "--latex", "t.tex")
        assert done.code == 0, done.err
        assert "base" in done.out
        assert "base &" in (tmp_path / "t.tex").read_text()
        assert ">base</text>" in (tmp_path / "t.svg").read_text()
    assert phf("report", "runs/base", "other", "--unequal", "-o", "r.html").code == 0
    page = (tmp_path / "r.html").read_text()
    assert "base, other. Made by" in page
    assert page.count("<td>base</td>") >= 1
    assert "<td>embedded</td><td>embedded</td>" not in page


def test_names_are_no_markup(phf: Phf, tmp_path: Path) -> None:
    evaluation(tmp_path / "a", SOME, bench="a[b]")
    done = phf("compare", "a", "--view", "methods")
    assert done.code == 0
    assert "a[b]" in done.out


def test_a_name_is_shown_as_text(phf: Phf, run: Path) -> None:
    phf("eval", run, "--limit", 2, "--n", 1, "--quiet", "--engine", "transformers")
    hostile = run.rename(run.with_name("[red]x[] \x1b[2J|"))
    done = phf("compare", hostile, "--markdown", "t.md")
    assert "[red]x[]" in done.out
    assert "\x1b[2J" not in done.out


@pytest.mark.slow
def test_a_name_that_is_given_stands_for_the_folder_of_a_run_and_of_a_model(
    phf: Phf, run: Path, tmp_path: Path
) -> None:
    evaluation(tmp_path / "other", SOME)
    assert phf("report", f"mine={run}", "theirs=other", "-o", "r.html").code == 0
    assert "mine, theirs. Made by" in (tmp_path / "r.html").read_text()
