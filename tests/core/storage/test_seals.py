"""Seals: each changed bit of a sealed file or line is found, and what earlier versions wrote is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.errors import UserError
from phfcli.core.storage.files import drop_cut_line
from phfcli.core.storage.schemas import StepForm, read_form, read_forms
from phfcli.core.storage.seals import append_sealed, check_sealed, write_sealed

LINES: list[dict[str, Any]] = [{"step": step, "loss": 0.1 * step} for step in (1, 2, 3)]


def flipped(content: bytes) -> list[bytes]:
    """The content with one bit of each of its bytes changed."""
    bits = [bytes([byte ^ 1 << 3 * place % 8]) for place, byte in enumerate(content)]
    return [content[:place] + bit + content[place + 1 :] for place, bit in enumerate(bits)]


@pytest.mark.parametrize(
    ("name", "value"), [("f.json", {"step": 1, "é": [0.5]}), ("f.yaml", "alpha: 0.05\n"), ("f.md", "# Card\n")]
)
def test_each_changed_bit_of_a_file_is_found(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / name
    write_sealed(path, value)
    assert check_sealed(path)
    for content in flipped(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=name):
            check_sealed(path)


def test_each_changed_bit_of_lines_is_found(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    append_sealed(path, LINES[:1])
    append_sealed(path, LINES[1:])
    assert read_forms(path, StepForm) == LINES
    for content in flipped(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"f\.jsonl line [123]"):
            read_forms(path, StepForm)


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (1, 0, 2), (0, 0, 1, 2)])
def test_lost_moved_and_repeated_lines_are_found(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = tmp_path / "f.jsonl"
    append_sealed(path, LINES)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[index] for index in order))
    with pytest.raises(UserError, match="checksum"):
        read_forms(path, StepForm)


def test_a_cut_line_is_no_damage_and_the_next_one_is_sealed_with_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    append_sealed(path, LINES)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last + 1):
        path.write_bytes(whole[:-cut])
        assert read_forms(path, StepForm) == LINES[:2]
        drop_cut_line(path)
        append_sealed(path, LINES[2:])
        assert path.read_bytes() == whole


def test_lines_behind_those_of_an_earlier_version_cover_them(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[:2]))
    append_sealed(path, LINES[2:])
    assert read_forms(path, StepForm) == LINES
    path.write_text(path.read_text().replace("0.2", "0.3", 1))
    with pytest.raises(UserError, match="line 3"):
        read_forms(path, StepForm)


def test_a_long_last_line_is_covered(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    append_sealed(path, [{"step": 1, "text": "x" * 300_000}])
    append_sealed(path, LINES[1:])
    assert len(read_forms(path, StepForm)) == 3


def test_what_has_no_seal_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"step": 1, "sha256": {"a": "0" * 64}}, indent=2) + "\n")
    assert read_form(path, StepForm)["step"] == 1
    assert not check_sealed(path)


def test_a_name_that_is_no_utf8_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_sealed(tmp_path / "f.json", {"step": 1, "command": ["\udcc3"]})
    assert read_form(tmp_path / "f.json", StepForm)["command"] == ["\udcc3"]
