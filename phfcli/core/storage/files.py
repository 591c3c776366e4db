"""Writes files so that a reader finds the old file or the new one, never half of either."""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phfcli.core.errors import DISK_FAULTS, MissingFileError, UserError, first_line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write; it takes the place of `path` at once when it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming_disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def as_json(value: Any) -> Any:
    """The same value, with text in place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """Appends JSON lines and waits until they are on disk."""
    with naming_disk_faults(path), path.open("a", encoding="utf-8") as file:
        file.write(json_lines(values))
        file.flush()
        os.fsync(file.fileno())


def json_lines(values: Iterable[Any]) -> str:
    # ASCII, so that no character of a model's text can be taken for the end of a line
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)


def read_json(path: Path) -> Any:
    """Raises UserError, naming the file, if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # no text, no JSON, a huge number, endless nesting
        raise UserError(f"{path}: not readable as JSON: {first_line(error)}") from None


def read_lines(path: Path) -> list[Any]:
    """The JSON lines of a file, without a last line that a stop has cut; none if there is no file.

    Raises UserError for any other line that is not JSON.
    """
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(_whole_lines(path).decode("utf-8", errors="replace").split("\n")[:-1], start=1):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or first_line(error)
            raise UserError(f"{path} line {number}: not JSON: {reason}") from None
    return lines


def drop_cut_line(path: Path) -> None:
    """Takes a last line that a stop has cut off the file, so that appending starts on a line of its own."""
    if path.exists() and (whole := len(_whole_lines(path))) < path.stat().st_size:
        os.truncate(path, whole)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is complete; what fails leaves nothing under that name."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming_disk_faults(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_folder(path: Path) -> None:
    """Takes a folder away at once, so that no reader finds a part of it under its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    _sync(path.parent)
    shutil.rmtree(temporary)


def remove_hidden(folder: Path) -> None:
    """Removes what a kill left in the middle of writing: here and in the libraries, such names start with a dot."""
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def folder_hash(folder: Path, pattern: str = "*") -> str:
    """A sha256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + file_hash(path).encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming_disk_faults(path: Path) -> Iterator[None]:
    """Lets a fault of the disk name the file that was to be written, as an OSError.

    Python's own does not where a write fails, and libraries in Rust tell the system's number in a text only.
    """
    try:
        yield
    except Exception as error:
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else told and int(told[1])
        if number is None or number not in DISK_FAULTS:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _whole_lines(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
