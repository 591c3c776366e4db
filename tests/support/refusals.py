"""What a command that refuses its input must leave: one line on stderr, exit code 2, nothing on stdout."""

from typing import Any


def refused(done: Any, *parts: str) -> None:
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("phf: ")
    for part in parts:
        assert part in lines[0]
