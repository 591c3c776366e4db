"""Locks: one writer at a time, and what somebody reads is not removed."""

from pathlib import Path

import pytest

from phfcli.core.errors import UserError
from phfcli.core.storage.files import kept, unused, writing_alone


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
