"""Data sets from local files: every form gives the same rows, and every bad file one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pyarrow
import pytest
from pyarrow.parquet import write_table

from phfcli.core.config import ColumnSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.runs.problems import load_problems
from phfcli.core.storage.files import check_size
from phfcli.core.storage.tables import looks_like_file, read_rows, split_hub_name

ROWS = [
    {"problem": "What is 2+2?", "solution": "2+2=4. \\boxed{4}", "answer": "4"},
    {"problem": 'A "quoted",\nbroken line é', "solution": "\\boxed{073}", "answer": "073"},
]


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")


def write_csv(path: Path) -> None:
    pandas.DataFrame(ROWS).to_csv(path, index=False)


def write_parquet(path: Path) -> None:
    pandas.DataFrame(ROWS).to_parquet(path)


@pytest.mark.parametrize(("suffix", "write"), [("jsonl", write_jsonl), ("csv", write_csv), ("parquet", write_parquet)])
def test_each_form_gives_the_same_rows(tmp_path: Path, suffix: str, write: Callable[[Path], None]) -> None:
    path = tmp_path / f"rows.{suffix}"
    write(path)
    rows = read_rows(path)
    assert list(rows) == ROWS
    assert rows[1] == ROWS[1]
    assert list(rows.columns) == ["problem", "solution", "answer"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "holds no rows"),
        ("empty.csv", b"", "not a csv file"),
        ("header.csv", b"problem,solution\n", "holds no rows"),
        ("ragged.csv", b"problem,solution\na,b\na,b,c\n", "line 3: 3 cells where the header names 2 columns"),
        ("shifted.csv", b"problem,solution\n\na,b,c\na,b,c\n", "line 3: 3 cells"),
        ("short.csv", b'problem,solution\n"a\na",b\na\n', "line 4: 1 cells"),
        ("twice.csv", b"problem,problem\na,b\n", "line 1: two columns are named 'problem'"),
        ("quote.csv", b'problem,solution\na,"b\n', "line 2: not csv"),
        ("broken.jsonl", b'{"problem": 1}\n{"problem"\n', "line 2: not JSON"),
        ("list.jsonl", b"[1, 2]\n", "line 1: expected an object"),
        ("digits.jsonl", b'{"problem": ' + b"9" * 5000 + b"}\n", "line 1: not JSON: Exceeds the limit"),
        ("deep.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("bytes.jsonl", b"\xff\xfe{}", "cannot be read as UTF-8"),
        ("text.parquet", b"not parquet at all", "not a parquet file"),
        ("rows.xlsx", b"", "unknown kind of file"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        read_rows(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x", "solution": "y"}\n')
    with pytest.raises(UserError, match=r"no column 'problem' among question, solution.*columns\."):
        load_problems(TrainConfig(data=str(path)))
    assert load_problems(TrainConfig(data=str(path), columns=ColumnSettings(problem="question")))[0].problem == "x"


def test_all_missing_columns_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x", "worked": "y"}\n')
    with pytest.raises(
        UserError, match=r"no column 'problem', 'solution' among question, worked; map them with"
    ) as caught:
        load_problems(TrainConfig(data=str(path)))
    assert "columns.problem=COLUMN, columns.solution=COLUMN" in str(caught.value)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_of_a_csv_file_is_told(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"problem{mark}solution\nx{mark}y\n")
    with pytest.raises(UserError, match="separated by commas") as caught:
        load_problems(TrainConfig(data=str(path)))
    assert repr(mark) in str(caught.value)


def test_an_empty_cell_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "x", "solution": "y"}\n{"problem": "x", "solution": " "}\n')
    with pytest.raises(UserError, match="line 2: 'solution' is empty"):
        load_problems(TrainConfig(data=str(path)))


@pytest.mark.parametrize("name", ["a.jsonl", "./x", "/x", "a/b/c", "x.csv"])
def test_paths_are_told_from_hub_ids(name: str) -> None:
    assert looks_like_file(name)
    assert not looks_like_file("openai/gsm8k")


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_a_line_of_jsonl_ends_at_a_line_feed_alone(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"problem": f"a{end}b"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert list(read_rows(path)) == [row]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai/gsm8k", ("openai/gsm8k", None, "train")),
        ("openai/gsm8k:test", ("openai/gsm8k", None, "test")),
        ("openai/gsm8k:main:test", ("openai/gsm8k", "main", "test")),
        ("openai/gsm8k:main:", ("openai/gsm8k", "main", "train")),
    ],
)
def test_a_hub_name_may_tell_configuration_and_split(name: str, parts: tuple[str, str | None, str]) -> None:
    assert split_hub_name(name) == parts


@pytest.mark.parametrize("name", ["a/b:c:d:e", ":train"])
def test_other_hub_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected HUB, HUB:SPLIT or HUB:CONFIG:SPLIT"):
        split_hub_name(name)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_table_that_unpacks_to_more_than_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: bool
) -> None:
    path = tmp_path / "bomb.parquet"
    column = pyarrow.array(["x" * 10**5] * 1000)
    write_table(pyarrow.table({"problem": column.dictionary_encode() if encoded else column}), path)
    assert path.stat().st_size < 10**6
    monkeypatch.setattr(check_size, "__defaults__", (10**7,))
    with pytest.raises(UserError, match=r"bomb\.parquet: holds more than 10 MiB"):
        read_rows(path)
