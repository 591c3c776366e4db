"""Runs `phf` itself for a check: in a temporary folder, in a process of its own, within a time."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from phfcli.core.storage.files import read_lines

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `code` is None where it took longer than it may; `said` is the last line of its stderr."""

    code: int | None
    said: str
    seconds: float

    @property
    def done(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        """What went wrong, for the table."""
        return f"took longer than {self.seconds:.0f} s" if self.code is None else self.said or f"exit code {self.code}"


def run_phf(arguments: Sequence[str], within_s: float, kill_at: tuple[Path, int] | None = None) -> Outcome:
    """Runs `phf ARGUMENTS`; with kill_at, (a metrics file, lines), it is killed when the file has so many lines."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phfcli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=told,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started < within_s:
                if kill_at is not None and len(read_lines(kill_at[0])) >= kill_at[1]:
                    break
                time.sleep(_LOOK_EVERY_S)
            code = process.poll()
        finally:
            _end(process)
        told.seek(0)
        lines = [line for line in told.read().decode(errors="replace").splitlines() if line.strip()]
    return Outcome(code, lines[-1] if lines else "", time.monotonic() - started)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills what is left of a command, and all that it has started: ranks have sessions of their own."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, by step."""
    return read_lines(run / "metrics.jsonl")


def json_of(arguments: Sequence[str], within_s: float) -> Any:
    """What a command prints with --json; None where it fails."""
    command = [sys.executable, "-P", "-m", "phfcli", *arguments, "--json"]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=within_s, check=True)
        return json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None
