"""Locks on files: one process at a time may write into a folder, and what somebody reads is not removed meanwhile.

They are the system's own (flock), end with the process that holds them, and hold between machines on a shared file
system that supports them.
"""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phfcli.core.errors import UserError

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
