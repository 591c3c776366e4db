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
    assert list(read_hub(str(tmp_path), "train")) == [{"problem": "P", "answer": "073", "problem_idx": 5}]
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


def write(path: Path, *answers: object) -> str:
    rows = [{"problem": f"P{number}", "answer": answer} for number, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_list_of_answers_holds_accepted_ones(tmp_path: Path) -> None:
    bench = load_benchmark(write(tmp_path / "b.jsonl", ["1/2", "0.5"], "3, 4"), EvalConfig())
    assert [problem.golds for problem in bench.problems] == [("1/2", "0.5"), ("3, 4",)]


def test_golds_that_are_no_answers_are_warned_of_refused_or_read_in_another_form(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", "87", "12 students", "13")
    [note] = load_benchmark(path, EvalConfig()).notes
    assert "1 of 3 gold answers are not plausible answers, such as '12 students'" in note
    assert load_benchmark(path, EvalConfig(gold="last-number")).problems[1].answer == "12"
    path = write(tmp_path / "c.jsonl", "The answer is 87.", "12 students")
    with pytest.raises(UserError, match=r"2 of 2 gold answers.*--set gold=last-number"):
        load_benchmark(path, EvalConfig())


def test_bad_rows_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", "1", None)
    with pytest.raises(UserError, match="line 2: 'answer' is empty"):
        load_benchmark(path, EvalConfig())
    bench = load_benchmark(path, EvalConfig(bad_rows="skip"))
    assert (len(bench.problems), bench.notes[0]) == (1, f"{path}: 1 bad rows are left out: line 2: 'answer' is empty")
