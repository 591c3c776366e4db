"""Benchmarks: the form of each gold answer, rows from a hub-shaped folder, and ids that tell problems apart."""

import json
from pathlib import Path

import pandas
import pytest

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import HUB, load_benchmark
from phfcli.core.storage.tables import read_hub


@pytest.mark.parametrize(
    ("bench", "cell", "gold"),
    [
        ("aime24", "033", "033"),
        ("math500", "So $x = \\boxed{1}$, hence \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("gsm8k", "He pays 3*4=12.\n#### 1,234,567", "1234567"),
        ("hmmt25", " \\frac{1}{576} ", "\\frac{1}{576}"),
    ],
)
def test_golds(bench: str, cell: str, gold: str) -> None:
    assert HUB[bench].gold(cell) == gold


def test_a_hub_data_set_is_read_from_a_folder_of_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    frame = pandas.DataFrame({"problem": ["P"], "answer": ["073"], "problem_idx": [5]})
    frame.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert read_hub(str(tmp_path), "train") == [{"problem": "P", "answer": "073", "problem_idx": 5}]
    with pytest.raises(UserError, match=r"cannot be loaded|cannot be reached"):
        read_hub(str(tmp_path), "validation")


def test_embedded_splits_are_disjoint_and_hashed() -> None:
    evaluation, development = (load_benchmark(name, EvalConfig()) for name in ("embedded", "embedded-dev"))
    assert len(evaluation.problems) == len(development.problems) == 128
    assert not {p.problem for p in evaluation.problems} & {p.problem for p in development.problems}
    assert evaluation.sha256 != development.sha256
    assert load_benchmark("embedded", EvalConfig(limit=3)).sha256 != evaluation.sha256


def test_repeated_ids_are_replaced_by_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    rows = [{"id": "same", "problem": p, "answer": "1"} for p in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.id for p in load_benchmark(str(path), EvalConfig()).problems] == ["0", "1"]
