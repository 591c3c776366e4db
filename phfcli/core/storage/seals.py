"""Seals: a file of a run ends with a checksum of what stands before it, and so does each line of a JSON Lines file.

JSON has it as its last field `seal`, YAML and Markdown in a comment at their end. The seal of a line covers the line
before it too, so that none can be lost or moved. What has no seal was written by an earlier version, and is read as it
is. One changed bit cannot make a sealed file such a one: either the seal's name or its digits are left in their place.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from phfcli.core.errors import UserError
from phfcli.core.storage.files import appending, file_hash, read_whole, replacing

_LINE = (b', "seal": "', b'"}\n')
_FORMS = {
    ".json": (b',\n  "seal": "', b'"\n}\n'),
    ".yaml": (b"# seal: ", b"\n"),
    ".md": (b"<!-- seal: ", b" -->\n"),
}
_DIGITS = 64
_BLOCK = 1 << 16  # bytes of a file's end that are read at once


def write_sealed(path: Path, value: Any) -> None:
    """Replaces a file by a text, or by an object as JSON, with a seal. NaN and infinities are refused: `as_json`."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    opening, closing = _FORMS[path.suffix]
    content = text.encode("utf-8", "backslashreplace")  # a file's name may be no UTF-8; JSON reads it back as it was
    if path.suffix == ".json":
        content = content.removesuffix(b"\n}\n")
    with replacing(path) as temporary:
        temporary.write_bytes(_sealed(content + opening, closing))


def check_sealed(path: Path) -> bool:
    """Whether a file is sealed. Raises UserError if the content of a sealed file has changed."""
    return _check(str(path), read_whole(path), b"", *_FORMS[path.suffix], cut=path.suffix != ".json")


def append_sealed(path: Path, values: Iterable[Any]) -> None:
    """Appends JSON lines with their seals and waits until they are on disk."""
    with appending(path) as file:
        file.write(b"".join(_sealed_lines(values, _last_line(file))))


def write_sealed_lines(path: Path, values: Iterable[Any]) -> None:
    """Replaces a file by JSON lines with their seals."""
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(_sealed_lines(values, b"")))


def sound_lines(path: Path, lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, which have their ends. Raises UserError, naming the line, at one that is not what was sealed."""
    before, sealed = b"", False
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        own = _check(where, line, before, *_LINE)
        if sealed and not own:
            raise UserError(f"{where}: damaged: it has no seal, and the line before it has one")
        before, sealed = line, own
        yield line


def sums_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of each file by its path in the folder."""
    return {str(path.relative_to(folder)): file_hash(path) for path in sorted(files) if path.is_file()}


def check_file_sums(folder: Path, sums: dict[str, str]) -> None:
    """Compares files with their sums. Raises UserError, naming the file that is missing or has changed."""
    for name, wanted in sums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: damaged or incomplete: the file is missing")
        if file_hash(path) != wanted:
            raise UserError(f"{path}: damaged: its content is not what was written (checksum)")


def _sealed(head: bytes, closing: bytes, before: bytes = b"") -> bytes:
    return head + hashlib.sha256(before + head).hexdigest().encode() + closing


def _sealed_lines(values: Iterable[Any], before: bytes) -> Iterator[bytes]:
    for value in values:
        # ASCII, so that no character of a model's text can be taken for the end of a line
        head = json.dumps(value, allow_nan=False).encode().removesuffix(b"}") + _LINE[0]
        before = _sealed(head, _LINE[1], before)
        yield before


def _check(where: str, content: bytes, before: bytes, opening: bytes, closing: bytes, cut: bool = False) -> bool:
    """Whether a content has a seal, which is right. With `cut` a seal that has lost its end is wrong too."""
    end = max(len(content) - _DIGITS - len(closing), 0)
    named = content[:end].endswith(opening) or (cut and opening in content)
    digits = content.endswith(closing) and re.fullmatch(rb"[0-9a-f]{64}", content[end : -len(closing)])
    if not named and not digits:
        return False
    if content != _sealed(content[:end], closing, before):
        raise UserError(f"{where}: damaged: its content is not what was written (checksum)")
    return True


def _last_line(file: BinaryIO) -> bytes:
    """The last line of a file, with its end; nothing of an empty file."""
    size, tail = file.seek(0, os.SEEK_END), b""
    while len(tail) < size and tail.count(b"\n") < 2:
        start = max(0, size - 2 * len(tail) - _BLOCK)
        file.seek(start)
        tail = file.read(size - start)
    return tail[tail.rstrip(b"\n").rfind(b"\n") + 1 :]
