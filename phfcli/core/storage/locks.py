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
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                raise UserError(f"{path}: this file system has no locks; use a folder on another one") from None
            raise UserError(busy) from None
        yield


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keeps others from removing what belongs to the file at `path` while the context lasts; see `unused`."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise FileNotFoundError(errno.ENOENT, "it is being removed", str(path)) from None
        yield


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether nobody keeps the file at `path`; within the context nobody can begin to."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield error.errno in _NOT_SUPPORTED
            return
        yield True
