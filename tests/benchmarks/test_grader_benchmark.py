"""The program `benchmarks/grader.py`, run as a user would, and what makes it fail."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "grader.py"
QUICK = ["--count", "19", "--timeout", "4"]  # one answer of each family


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    return subprocess.run([sys.executable, str(PROGRAM), *options], env=environment, capture_output=True, text=True)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return runpy.run_path(str(PROGRAM), run_name="benchmark")


@pytest.mark.slow
def test_hostile_answers_are_survived_and_counted() -> None:
    done = _run(*QUICK, "--runs", "0", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["failures"] == figures["created_files"] == []
    assert figures["wall_s"] < figures["bound_s"]
    assert 0 < figures["longest_s"] < 4 + 5
    statuses = [
        (status, n)
        for f in figures["families"].values()
        for status, n in f.items()
        if status not in ("seconds", "missing")
    ]
    assert sum(n for _, n in statuses) == figures["count"] == 19
    assert {status for status, _ in statuses} <= {"wrong", "no_answer", "timeout", "error"}
    assert figures["throughput"] == {}


@pytest.mark.slow
def test_the_figures_are_printed() -> None:
    done = _run("--count", "5", "--timeout", "2", "--runs", "1", "--workers", "1", "--limit", "10")
    assert done.returncode == 0, done.stderr
    for word in ("towers", "pairs per second", "peak memory", "workers replaced", "files created", "ratio"):
        assert word in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.tsv", 'gold\tanswer\tright\n7\t"7"\tright\n7\t8\twrong\n7\t\\text{VII}\tright\n'),
        ("pairs.csv", 'kind,gold,answer,right\npairs,7,7,1\npairs,7,8,0\npairs,7,"\\text{VII}",1\n'),
        ("pairs.jsonl", '{"gold": "7", "answer": "7", "right": true}\n{"gold": 7, "answer": "8", "right": false}\n'
         '{"gold": "7", "answer": "\\\\text{VII}", "right": true}\n'),
    ],
)  # fmt: skip
def test_pairs_in_a_file_are_judged(program: dict[str, Any], tmp_path: Path, name: str, text: str) -> None:
    (file := tmp_path / name).write_text(text, encoding="utf-8")
    kind, total = program["misread"](program["read_pairs"](file))
    assert kind["kind"] == "pairs"
    assert (kind["right"], kind["wrong"], kind["ours_fn"], kind["ours_fp"]) == (2, 1, 1, 0)
    assert total["right"] == 2


def test_the_answers_are_the_same_for_the_same_seed() -> None:
    program = runpy.run_path(str(PROGRAM.with_name("hostile_answers.py")))
    pairs = program["hostile_pairs"]
    assert pairs(100, 3) == pairs(100, 3) != pairs(100, 4)
    assert sum(map(len, pairs(2000, 0).values())) == 2000
    assert set(pairs(100, 0)) == set(program["FAMILIES"])
    assert {gold for own in pairs(100, 0).values() for gold, _ in own} == set(program["GOLDS"])


def test_what_must_not_happen_is_told(program: dict[str, Any]) -> None:
    family = {"seconds": 1.0, "missing": 0, "wrong": 5}
    fine = {"created_files": [], "wall_s": 1.0, "bound_s": 2.0, "families": {"a": family}}
    assert program["failures"](fine) == []
    for wrong, word in [
        ({"created_files": ["canary"]}, "executed"),
        ({"wall_s": 3.0}, "bound"),
        ({"families": {"a": family | {"correct": 1}}}, "correct"),
        ({"families": {"a": family | {"missing": 1}}}, "no grade"),
    ]:
        (failure,) = program["failures"](fine | wrong)
        assert word in failure
