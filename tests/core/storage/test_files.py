"""Writing: a reader never finds half a file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.errors import UserError
from phfcli.core.storage.files import (
    append_lines,
    drop_cut_line,
    json_lines,
    new_folder,
    read_json,
    read_lines,
    write_json,
)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half_written() -> None:
        with new_folder(tmp_path / "made") as folder:
            (folder / "first").write_text("1")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_folder_leaves_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with new_folder(target) as folder:
        (folder / "first").write_text("1")

    def fail() -> None:
        with new_folder(target) as folder:
            (folder / "first").write_text("2")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (target / "first").read_text() == "1"


@given(texts=st.lists(st.text(), max_size=5), cut=st.integers(0, 50))
def test_a_line_that_a_stop_cut_is_not_read_and_does_not_spoil_the_next(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "samples.jsonl"
    append_lines(path, texts)
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])
    kept = read_lines(path)
    assert kept == texts[: len(kept)]
    drop_cut_line(path)
    append_lines(path, ["after"])
    assert read_lines(path) == [*kept, "after"]


@given(st.lists(st.text()))
def test_no_character_of_a_text_ends_a_line(texts: list[str]) -> None:
    assert [json.loads(line) for line in json_lines(texts).splitlines()] == texts


def test_reading_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(UserError, match=r"y\.json: not readable as JSON"):
        read_json(tmp_path / "y.json")
    (tmp_path / "z.jsonl").write_text("{}\nnope\n{}\n")
    with pytest.raises(UserError, match=r"z\.jsonl line 2"):
        read_lines(tmp_path / "z.jsonl")


def test_written_json_reads_back(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"a": [1, "é"]})
    assert read_json(tmp_path / "deep" / "x.json") == {"a": [1, "é"]}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.json"]
