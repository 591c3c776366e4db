"""Files: replaced as a whole or not at all, locked against other processes, and checked to be writable."""

import datetime
import errno
import fcntl
import hashlib
import json
import math
import os
import queue
import re
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

from phfcli.core.errors import DISK_FAULTS, FaultError, MissingFileError, UserError, first_line, masked

_NOT_SUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def writing_alone(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file at `path` while the context lasts, and creates it where necessary.

    Raises:
        UserError: with the message `busy` if another process holds it; also where the file system has no locks.
    """
    with _lock(path, "a", fcntl.LOCK_EX) as fault:
        if fault in _NOT_SUPPORTED:
            raise UserError(f"{path}: this file system has no locks; use a folder on another one")
        if fault:
            raise UserError(busy)
        for left in filter(is_temporary, path.parent.iterdir()):  # of a process that was killed
            remove(left)
        place = path.absolute()
        _held[place] = _file_id(place)
        try:
            yield
        finally:
            del _held[place]


_held: dict[Path, tuple[int, int] | None] = {}  # the lock files of the folders that this process writes into


def _file_id(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path, whatever its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_held(path: Path) -> None:
    """Raises FaultError where a folder that `path` lies in was moved or removed since this process has locked it."""
    place = path.absolute()
    for lock, file in list(_held.items()):
        if place.is_relative_to(lock.parent) and _file_id(lock) != file:
            raise FaultError(
                f"{lock.parent}: it was moved or removed while phf wrote into it, so nothing more is written; what was "
                "there is complete: move the folder back and resume"
            )


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Marks the file at `path` as in use while the context lasts, so that `unused` is false for other processes."""
    with _lock(path, "rb", fcntl.LOCK_SH) as fault:
        if fault and fault not in _NOT_SUPPORTED:
            raise FileNotFoundError(errno.ENOENT, "it is being removed", str(path))
        yield


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether no process uses the file at `path` (see `kept`); none can begin to within the context."""
    with _lock(path, "rb", fcntl.LOCK_EX) as fault:
        yield not fault or fault in _NOT_SUPPORTED


@contextmanager
def _lock(path: Path, mode: str, kind: int) -> Iterator[int | None]:
    """Locks a file while the context lasts, without waiting; yields None, or the errno of a failure."""
    with open(path, mode, opener=_no_link) as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            fault = None
        except OSError as error:
            fault = error.errno
        yield fault


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` in one step when it is complete and on disk."""
    temporary = _temporary(path)
    with naming_disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))
        mode = temporary.stat().st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # safetensors puts a file in its place that nobody else may read
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody can guess, and so cannot have put a link at."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is one that is being written, or was when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _no_link(path: str, flags: int) -> int:
    """Opens a file for `open`, and never what a link at its place leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _no_wait(path: str, flags: int) -> int:
    """Opens a file for `open` without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A file to read and to append to, whose content is on disk at the end."""
    with naming_disk_faults(path), open(path, "a+b", opener=_no_link) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_data(path: Path, text: str) -> None:
    """Replaces a file's text, as it is: rows and completions are data, whatever they look like."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Replaces a file's text, without the secrets that have come into it: a page may be shown to anybody."""
    write_data(path, masked(text))


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by a value as JSON. NaN and infinities are refused; see `as_json`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def as_json(value: Any) -> Any:
    """The same value with NaN, infinities, days and keys that are numbers, which JSON does not have, as text."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def json_lines(values: Iterable[Any]) -> str:
    """The values as JSON lines."""
    # ASCII, so that no character of a model's text can be taken for the end of a line
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values)


MOST_BYTES = 2 * 2**30  # of a file that is read whole, and of what a packed one unpacks to
TEXT_BYTES = 16 * 2**20  # of settings, a study, a template
_UNREADABLE = (
    *(errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENXIO, errno.ENODEV, errno.EINVAL),  # of sockets and of devices that are not there
)


def read_whole(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes, however it came here; a pipe or a device is not opened.

    Raises:
        UserError: naming the file, for one that is missing (MissingFileError), too large or of another kind.
    """
    with open_regular(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size, most)
        content = file.read(most + 1)
    check_size(path, len(content), most)
    return content


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open to be read. Raises UserError as `read_whole` does."""
    try:
        file = open(path, "rb", opener=_no_wait)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{path}: this is no file's name") from None
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: is no regular file, and only these are read")
        yield file


def check_regular(path: Path, most: int | None = None) -> None:
    """Raises UserError for a file that is no regular one, or has more than so many bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: is no regular file, and only these are read")
    if most is not None:
        check_size(path, found.st_size, most)


def check_size(path: Path, size: int, most: int = MOST_BYTES) -> None:
    """Raises UserError for a file whose content has more bytes than are read at once."""
    if size > most:
        raise UserError(
            f"{path}: holds more than {most / 2**20:,.0f} MiB, which is the most that is read of such a file"
        )


def read_text(path: Path) -> str:
    """The text of a small file that somebody has written. Raises UserError as `read_whole` does, and for no UTF-8."""
    try:
        return read_whole(path, TEXT_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: cannot be read: it is no text in UTF-8") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises UserError, naming the file, if it is missing or not JSON."""
    content = read_whole(path)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no text, no JSON, a huge number, endless nesting
        raise UserError(f"{path}: not readable as JSON: {first_line(error)}") from None


def read_lines(path: Path) -> list[Any]:
    """The JSON lines of a file, without a last line that was cut while it was written; none if there is no file.

    Raises:
        UserError: for any other line that is not JSON.
    """
    return list(parse_lines(path, raw_lines(path)))


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file with their ends, one at a time, without a last one that was cut; none if there is no file.

    Raises:
        UserError: the last line is whole but for its end, which is damaged then.
    """
    if not path.exists():
        return
    with open_regular(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size)
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield line
                continue
            with suppress(ValueError, RecursionError):
                if isinstance(json.loads(line[:-1]), dict):
                    raise UserError(f"{path} line {number}: damaged: it ends with {line[-1:]!r}, not with a line break")


def parse_lines(path: Path, lines: Iterable[bytes]) -> Iterator[Any]:
    """The JSON of a file's lines. Raises UserError, naming the line, for one that is not JSON."""
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or first_line(error)
            raise UserError(f"{path} line {number}: not JSON: {reason}") from None
        yield value


def drop_cut_line(path: Path) -> None:
    """Removes a last line that was cut while it was written, so that the next one starts on a new line."""
    if path.exists() and (whole := sum(map(len, raw_lines(path)))) < path.stat().st_size:
        os.truncate(path, whole)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is renamed to `path` when it is complete; a failure leaves nothing there."""
    temporary = _temporary(path)
    with naming_disk_faults(path):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            mode = temporary.stat().st_mode & 0o666  # what the umask leaves; see `replacing`
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
                _sync(file)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            _sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_all(paths: Iterable[Path]) -> None:
    """Removes folders, all of them or none, so that no reader finds a part of one under its name."""
    moved: list[tuple[Path, Path]] = []
    try:
        for path in paths:
            temporary = _temporary(path)
            path.rename(temporary)
            moved.append((path, temporary))
            _sync(path.parent)
    except OSError as error:
        for path, temporary in moved:
            temporary.rename(path)
        raise OSError(error.errno, f"{error.strerror}; nothing was removed", str(path)) from None
    for _, temporary in moved:
        remove(temporary)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_hidden(folder: Path) -> None:
    """Removes the temporary files of a process that was killed while writing; their names start with a dot."""
    for path in folder.glob(".*"):
        remove(path)


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
    """Raises a fault of the disk as an OSError that names the file which was to be written.

    Python's error of a failed write names no file, and libraries in Rust give the errno only in a text.

    Raises:
        FaultError: the folder that this process has locked is no longer at its place.
    """
    _check_held(path)
    try:
        yield
    except Exception as error:
        match = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else match and int(match[1])
        if number is None or number not in DISK_FAULTS:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# errors that another path avoids; any other, such as a full disk, is a fault of the machine
_PATH_FAULTS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_WORDS = {errno.ENOENT: "no file can be made there"}  # /proc gives ENOENT although the folder exists


def check_file(label: str, path: Path) -> None:
    """Raises UserError, which begins with the label, if no file can be written at that path."""
    with _naming_path_faults(f"{label} {path}"):
        if path.is_dir():
            raise UserError(f"{label} {path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise UserError(f"{label} {path}: is a device, not a file; name a file")
        _try_file(label, path, path)


def check_folder(label: str, path: Path) -> None:
    """Raises UserError, which begins with the label, if no file can be written in that folder, existing or new."""
    with _naming_path_faults(f"{label} {path}"):
        _try_file(label, path / "file", path)


def _try_file(label: str, path: Path, named: Path) -> None:
    """Creates and removes a file beside `path`, or in the nearest existing folder above it; errors name `named`."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{label} {named}: {folder} is a file, not a folder; choose another path")
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
        pass


@contextmanager
def _naming_path_faults(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _PATH_FAULTS:
            raise
        words = _WORDS.get(error.errno) or os.strerror(error.errno)
        raise UserError(f"{what}: cannot be written: {words}; choose another path") from None


T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """A thread that calls `work` with all items that were put since its last call.

    Leaving the context waits until all items are done, also when the caller has failed. An error of `work` is raised
    in the caller by the next `put`, or at the end.
    """

    def __init__(self, work: Callable[[list[T]], None]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, item: T) -> None:
        """Queues an item. Raises the error of `work`, if it has failed."""
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
        """Waits for the next item and returns it with all that are queued behind it; none at the end."""
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
