"""The files on disk are what the manifest says and what its seed makes."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from arithmetic import APPLY, PHRASES
from problem_sets import SIZES, as_problems, draw_sets, json_lines

MEBIBYTE = 2**20
SIGNS = {phrase.strip(", "): sign for sign, phrase in PHRASES.items()}

Row = dict[str, str]


def rows_of(data_dir: Path, name: str) -> list[Row]:
    return [json.loads(line) for line in (data_dir / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SIZES)
def test_the_seed_makes_the_same_bytes(name: str, data_dir: Path, manifest: dict[str, Any]) -> None:
    made = json_lines(as_problems(name, draw_sets(manifest["seed"])[name]))
    assert (data_dir / f"{name}.jsonl").read_bytes() == made.encode()


def test_another_seed_makes_other_problems() -> None:
    assert draw_sets(0) != draw_sets(1)


def test_sizes_ids_and_fields(data_dir: Path, manifest: dict[str, Any]) -> None:
    assert manifest["problems"] == SIZES
    for name, size in SIZES.items():
        rows = rows_of(data_dir, name)
        assert [row["id"] for row in rows] == [f"{name}-{number:04d}" for number in range(1, size + 1)]
        assert all(list(row) == ["id", "problem", "solution", "answer"] for row in rows)


def test_no_problem_occurs_twice(data_dir: Path) -> None:
    problems = [row["problem"] for name in SIZES for row in rows_of(data_dir, name)]
    assert len(set(problems)) == sum(SIZES.values())


@pytest.mark.parametrize("name", SIZES)
def test_the_references_are_right(name: str, data_dir: Path) -> None:
    for row in rows_of(data_dir, name):
        # worked from the problem's words alone, then held against the equations and the box
        (start, *operands) = map(int, re.findall(r"\d+", row["problem"]))
        signs = [SIGNS[words] for words in re.findall(r", ([a-z ]+) \d", row["problem"])]
        value, equations = start, []
        for sign, operand in zip(signs, operands, strict=True):
            after = APPLY[sign](value, operand)
            equations.append(f"{value}{sign}{operand}={after}")
            assert 0 <= after <= 99
            value = after
        assert len(equations) == 4
        assert row["solution"] == "; ".join(equations) + f". \\boxed{{{value}}}"
        assert row["answer"] == str(value)


def test_the_manifest_names_every_file(data_dir: Path, manifest: dict[str, Any]) -> None:
    on_disk = {path.relative_to(data_dir).as_posix() for path in [*data_dir.glob("*.jsonl"), *data_dir.glob("model/*")]}
    assert set(manifest["files"]) == on_disk
    for name, fingerprint in manifest["files"].items():
        content = (data_dir / name).read_bytes()
        assert fingerprint == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}, name


def test_the_manifest_states_where_it_all_comes_from(manifest: dict[str, Any]) -> None:
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["command"] == f"python data/make.py --seed {manifest['seed']} --threads {manifest['threads']}"
    assert {"origin", "versions", "wall_time_s", "model", "pretraining", "base_on_eval"} <= set(manifest)


def test_the_whole_is_small(data_dir: Path) -> None:
    files = [*data_dir.glob("*.json*"), *data_dir.glob("model/*")]
    assert sum(path.stat().st_size for path in files) <= 5 * MEBIBYTE
