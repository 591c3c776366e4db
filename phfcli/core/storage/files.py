"""Writes files whole or not at all, one process at a time, and refuses paths that cannot be written."""

import errno
import fcntl
import hashlib
import json
import math
import os
import queue
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from phfcli.core.errors import DISK_FAULTS, MissingFileError, UserError, first_line

_NOT_SUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def writing_alone(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file at `path`, which is made where it is not there, while the context lasts.

    Raises:
        UserError: `busy`, where another process holds it; and where the file system has no locks.
    """
    with _lock(path, "a", fcntl.LOCK_EX) as fault:
        if fault in _NOT_SUPPORTED:
            raise UserError(f"{path}: this file system has no locks; use a folder on another one")
        if fault:
            raise UserError(busy)
        yield


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keeps others from removing what belongs to the file at `path` while the context lasts; see `unused`."""
    with _lock(path, "rb", fcntl.LOCK_SH) as fault:
        if fault and fault not in _NOT_SUPPORTED:
            raise FileNotFoundError(errno.ENOENT, "it is being removed", str(path))
        yield


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody keeps the file at `path`; within the context nobody can begin to."""
    with _lock(path, "rb", fcntl.LOCK_EX) as fault:
        yield not fault or fault in _NOT_SUPPORTED


@contextmanager
def _lock(path: Path, mode: str, kind: int) -> Iterator[int | None]:
    """Locks a file without waiting, while the context lasts; yields None, or the system's number for why it has not."""
    with path.open(mode) as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            fault = None
        except OSError as error:
            fault = error.errno
        yield fault


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


# what another path puts right; anything else, a full disk for one, is a fault of the machine
_OF_THE_PATH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_WORDS = {errno.ENOENT: "no file can be made there"}  # /proc says so although the folder is there


def check_file(label: str, path: Path) -> None:
    """Raises UserError, which begins with the label, if no file can be written under that path."""
    with _refusing(f"{label} {path}"):
        if path.is_dir():
            raise UserError(f"{label} {path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise UserError(f"{label} {path}: is a device, which a file would replace; name a file")
        _make_and_remove(label, path, path)


def check_folder(label: str, path: Path) -> None:
    """Raises UserError, which begins with the label, if no file can be written in that folder, be it new or not."""
    with _refusing(f"{label} {path}"):
        _make_and_remove(label, path / "file", path)


def _make_and_remove(label: str, path: Path, named: Path) -> None:
    """Tries a file beside that path, or in the nearest folder above it that is there already."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{label} {named}: {folder} is a file, and a folder is wanted; choose another place")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
        pass


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_PATH:
            raise
        words = _WORDS.get(error.errno) or os.strerror(error.errno)
        raise UserError(f"{what}: cannot be written: {words}; choose another place") from None


T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """A thread that calls `work` with all the items that have come in since its last call.

    Leaving the context waits until everything is done, also when the caller has failed. What `work` raises is raised
    to the caller by the next `put`, or at the end.
    """

    def __init__(self, work: Callable[[list[T]], None]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, item: T) -> None:
        if self._failure is not None:
            raise self._failure
        self._queue.put(item)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while items := self._next():
                self._work(items)
        except BaseException as failure:
            self._failure = failure

    def _next(self) -> list[T]:
        """Waits for the next item and takes those behind it; none when the end has come."""
        items: list[T] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items
        if items:
            self._queue.put(None)
        return items
