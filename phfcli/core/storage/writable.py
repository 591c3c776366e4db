"""Refuses a path that cannot be written before any work is done, rather than when there is something to write."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phfcli.core.errors import UserError

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
