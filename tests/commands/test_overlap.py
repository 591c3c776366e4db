"""phf eval --set overlap=...: a benchmark's problems are looked for in training data, and the report tells."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Phf = Callable[..., Any]

SMALL = ("--limit", 4, "--n", 1, "--quiet", "--engine", "transformers")


@pytest.mark.slow
def test_a_run_is_looked_at_with_its_own_data(phf: Phf, tmp_path: Path) -> None:
    phf("train", "--steps", 1, "--set", "batch_size=4", "--output-dir", "run", "--quiet")
    done = phf("eval", "run", *SMALL, "--set", "overlap=run", "--json")
    [summary] = done.json["benches"]
    assert summary["overlap"]["data"] == "embedded"
    assert summary["overlap"]["problems"] == 4
    assert phf("report", "run", "--output", "page.html").code == 0
    assert "problems w" in (tmp_path / "page.html").read_text()


def test_copied_problems_are_told(phf: Phf, tmp_path: Path) -> None:
    summary = phf("eval", "embedded", *SMALL, "--json").json["benches"][0]
    assert "overlap" not in summary
    from phfcli.core.config import EvalConfig
    from phfcli.core.evaluation.benchmarks import load_benchmark

    copied = load_benchmark("embedded", EvalConfig(limit=2)).problems
    rows = [{"problem": problem.problem, "solution": "s"} for problem in copied]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = phf("eval", "embedded", *SMALL, "--set", "overlap=train.jsonl", "--json")
    [again] = done.json["benches"]
    assert again["average"] == summary["average"]  # no sample is drawn anew
    assert {pair["problem"] for pair in again["overlap"]["near"]} == {problem.id for problem in copied}
    assert "embedded: 2 of 4 problems were found in train.jsonl" in done.err


def test_what_is_no_run_has_no_data_of_its_own(phf: Phf) -> None:
    done = phf("eval", "embedded", *SMALL, "--set", "overlap=run")
    assert done.code == 2
    assert "overlap: embedded is no run; set overlap to its training data" in done.err
