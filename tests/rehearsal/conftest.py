"""The real commands on an accelerator that is not there, beside the same commands on the CPU; in one process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pretended_accelerator
import pytest
from pretended_accelerator import CALLS, WAITS, Device

from phfcli.cli import main

pretended_accelerator.install()

Command = Callable[..., None]


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    """The accelerator; nothing is counted yet."""
    WAITS.clear()
    CALLS.clear()
    with Device():
        yield


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs `phf ARGS` on a device, given first; returns what was printed, or the fault where it `fails`."""
    monkeypatch.chdir(tmp_path)

    def run(where: str, *args: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["phf", *map(str, args), *(["--set", f"device={where}"] if where else [])])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert bool(exit_.value.code) == fails, err
        return err if fails else out

    return run
