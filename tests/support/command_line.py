"""Commands are run as a user types them, in this process, so that torch is loaded once."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from phfcli.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    words: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        """What --json has printed: a list, or the version and keys that docs/json.md has for the command."""
        printed = json.loads(self.out)
        if isinstance(printed, dict) and self.words[0] != "config":
            assert printed.pop("version") == 1
            assert printed.keys() == _documented(self.words), printed.keys() ^ _documented(self.words)
        return printed


def _documented(words: Sequence[str]) -> set[str]:
    """The keys that docs/json.md names for a command; of rows that fit it the one with most words."""
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    fitting = [(command.split(), keys) for command, keys in rows if set(command.split()) <= set(words)]
    _, keys = max(fitting, key=lambda row: len(row[0]))
    return set(re.findall(r"`(\w+)`", keys))


@pytest.fixture
def phf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """Runs `phf ARGS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["phf", *map(str, args)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return Done(int(exit_.value.code or 0), out, err, tuple(map(str, args)))

    return run
