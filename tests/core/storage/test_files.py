"""Files are written whole or not at all, by one process at a time, or in the background."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from phfcli.core.errors import FaultError, UserError
from phfcli.core.storage.files import (
    BackgroundWriter,
    drop_cut_line,
    json_lines,
    kept,
    new_folder,
    read_json,
    read_lines,
    read_text,
    read_whole,
    remove_all,
    unused,
    write_json,
    writing_alone,
)
from phfcli.core.storage.seals import append_sealed, write_sealed
from phfcli.core.storage.tensors import write_tensors


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half_written() -> None:
        with new_folder(tmp_path / "made") as folder:
            (folder / "first").write_text("1")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read."""
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "alone.safetensors", {"x": torch.zeros(2)})
        with new_folder(tmp_path / "folder") as folder:
            save_file({"x": torch.zeros(2)}, folder / "inner.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "alone.safetensors", tmp_path / "folder" / "inner.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o640


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
    path.write_text(json_lines(texts))
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)])
    kept = read_lines(path)
    assert kept == texts[: len(kept)]
    drop_cut_line(path)
    with path.open("a") as file:
        file.write(json_lines(["after"]))
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


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with writing_alone(lock, "busy"), pytest.raises(UserError, match="busy"), writing_alone(lock, "busy"):
        pass
    with writing_alone(tmp_path / "lock", "busy"):
        pass


def test_what_is_kept_is_not_unused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with unused(path) as free:
        assert free
        with pytest.raises(FileNotFoundError), kept(path):
            pass
    with kept(path), kept(path), unused(path) as free:
        assert not free


def test_all_that_came_in_is_done_in_order() -> None:
    seen: list[list[int]] = []
    with BackgroundWriter(seen.append) as background:
        for item in range(1000):
            background.put(item)
    assert [item for items in seen for item in items] == list(range(1000))


def test_what_comes_in_during_the_work_is_taken_together() -> None:
    started, release = threading.Event(), threading.Event()
    seen: list[list[int]] = []

    def work(items: list[int]) -> None:
        started.set()
        release.wait(10)
        seen.append(items)

    with BackgroundWriter(work) as background:
        background.put(0)
        started.wait(10)
        for item in (1, 2, 3):
            background.put(item)
        release.set()
    assert seen == [[0], [1, 2, 3]]


def test_a_failure_of_the_work_reaches_the_caller_at_the_end() -> None:
    def fail(_items: list[int]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(fail) as background:
        background.put(1)


def test_a_failure_of_the_work_stops_the_caller_on_its_way() -> None:
    failed = threading.Event()

    def fail(_items: list[int]) -> None:
        failed.set()
        raise OSError("disk full")

    def go_on() -> None:
        with BackgroundWriter(fail) as background:
            background.put(1)
            failed.wait(10)
            for item in range(10_000_000):
                background.put(item)
            pytest.fail("never told")

    with pytest.raises(OSError, match="disk full"):
        go_on()


def test_a_failure_of_the_caller_still_finishes_the_work() -> None:
    seen: list[list[int]] = []

    def stop() -> None:
        with BackgroundWriter(seen.append) as background:
            background.put(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert seen == [[7]]


def _new_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "file").write_text("1")


_WRITERS: dict[str, Callable[[Path], None]] = {
    "summary.json": lambda path: write_sealed(path, {"a": 1}),
    "metrics.jsonl": lambda path: append_sealed(path, [{"a": 1}]),
    "checkpoints/step-000001": _new_folder,
}


@pytest.mark.parametrize("name", _WRITERS)
@pytest.mark.parametrize("instead", ["nothing", "another"])
def test_a_folder_that_is_moved_while_it_is_written_into(tmp_path: Path, name: str, instead: str) -> None:
    folder, write = tmp_path / "run", _WRITERS[name]
    folder.mkdir()
    with writing_alone(folder / "lock", ""):
        write(folder / name)
        folder.rename(tmp_path / "moved")
        if instead == "another":
            folder.mkdir()
            (folder / "lock").touch()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(FaultError, match="moved or removed"):
            write(folder / name)
        assert sorted(tmp_path.rglob("*")) == before
        if instead == "nothing":
            (tmp_path / "moved").rename(folder)
            write(folder / name)


@pytest.mark.parametrize("name", _WRITERS)
def test_no_link_in_a_folder_is_written_through(tmp_path: Path, name: str) -> None:
    folder, outside, write = tmp_path / "run", tmp_path / "outside", _WRITERS[name]
    (folder / name).parent.mkdir(parents=True)
    outside.write_text("mine")
    (folder / name).with_name(f".{(folder / name).name}.tmp").symlink_to(outside)
    write(folder / name)
    if name == "metrics.jsonl":
        (folder / name).unlink()
        (folder / name).symlink_to(outside)
        with pytest.raises(OSError, match="symbolic links"):
            write(folder / name)
    assert outside.read_text() == "mine"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="symbolic links"), writing_alone(tmp_path / "lock", ""):
        pass
    assert not (tmp_path / "outside").exists()


def test_what_a_killed_process_had_begun_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".summary.json.0123.tmp").touch()
    (tmp_path / ".checkpoint.0123.tmp").mkdir()
    (tmp_path / ".keep").touch()
    with writing_alone(tmp_path / "lock", ""):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "lock"]


def test_folders_are_removed_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "c" / "file").touch()
    paths, rename = [tmp_path / name for name in "abc"], Path.rename

    def refuses_c(self: Path, target: Path) -> Path:
        if self.name == "c":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses_c)
    with pytest.raises(OSError, match="nothing was removed"):
        remove_all(paths)
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == paths
    remove_all(paths)
    assert list(tmp_path.iterdir()) == []


def _nothing(path: Path) -> None:
    pass


def _make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**32)


@pytest.mark.parametrize("read", [read_whole, read_json, read_text, read_lines])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_nothing, "no such file"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (_make_large, "holds more than"),
    ],
    ids=["missing", "folder", "pipe", "device", "loop", "large"],
)
def test_only_a_regular_file_of_some_size_is_read_whole(
    tmp_path: Path, read: Callable[[Path], object], make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "file.json"
    make(path)
    if read is read_lines and not path.exists():
        return  # none, which is no error
    with pytest.raises(UserError, match=f"file.json: .*{message}"):
        read(path)
