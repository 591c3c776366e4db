"""phf compare, on a run that phf train and phf eval have made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Phf = Callable[..., Any]


@pytest.fixture
def run(phf: Phf, tmp_path: Path) -> Path:
    options = ("--set", "batch_size=4", "--quiet")
    phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", "run", *options)
    return tmp_path / "run"


def test_two_evaluations_side_by_side(phf: Phf, run: Path) -> None:
    for target in ("embedded", run):
        phf("eval", target, "--limit", 6, "--n", 2, "--quiet", "--engine", "transformers")
    done = phf("compare", "runs/embedded", run, "--json")
    rows, (pair,) = done.json["rows"], done.json["pairs"]
    assert [row["name"] for row in rows] == ["embedded", "run"]
    assert pair["difference"] == pytest.approx(rows[1]["average"] - rows[0]["average"])
    assert {"difference", "stderr", "low", "high", "p_value", "problems"} <= pair.keys()
    assert pair["low"] <= pair["difference"] <= pair["high"]
    done = phf("compare", "runs/embedded", run, "--plot", "compare.svg", "--markdown", "compare.md")
    assert done.code == 0
    assert "run - embedded" in done.out
    assert (run.parent / "compare.md").read_text().startswith("**Average@n in percent")
    assert "<svg" in (run.parent / "compare.svg").read_text()


def test_copies_of_a_bench_that_differ_are_not_compared(phf: Phf, run: Path) -> None:
    phf("eval", "embedded", "--limit", 6, "--n", 2, "--quiet", "--engine", "transformers")
    phf("eval", run, "--limit", 5, "--n", 2, "--quiet", "--engine", "transformers")
    done = phf("compare", "runs/embedded", run)
    assert done.code == 2
    assert "differ in rows" in done.err


def test_a_run_without_evaluations(phf: Phf, run: Path) -> None:
    done = phf("compare", run)
    assert done.code == 2
    assert f"run `phf eval {run}` first" in done.err


def test_a_name_is_shown_as_text(phf: Phf, run: Path) -> None:
    phf("eval", run, "--limit", 2, "--n", 1, "--quiet", "--engine", "transformers")
    summary = run / "evals/embedded-n1/summary.json"
    changed = json.loads(summary.read_text()) | {"target": "[red]x[/] \x1b[2J|"}
    summary.write_text(json.dumps(changed))
    done = phf("compare", run, "--markdown", "t.md")
    assert "[red]x[/]" in done.out
    assert "\x1b[2J" not in done.out
