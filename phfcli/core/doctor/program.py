"""Runs `phf` for a check: in a separate process, with a time limit, and with all its files in one folder."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from phfcli.core.storage.child_processes import phf_command
from phfcli.core.storage.files import read_lines

_LOOK_EVERY_S = 0.05
_FIRST_LIMIT_S = 120.0  # before anything was measured
_LIMIT_S, _TIMES = 60.0, 3.0  # afterwards: so many seconds, plus so many times the duration of the first command
_TIME_TO_END_S = 5.0  # for killed processes to end


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int | None  # the exit code; None if it was killed at the time limit
    last_line: str  # of stderr
    printed: str  # stdout
    seconds: float

    @property
    def done(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        """The reason of a failure, for the table."""
        if self.code is None:
            return f"took longer than {self.seconds:.0f} s"
        return self.last_line or f"exit code {self.code}"


class Program:
    """Runs commands of `phf` that write all their files into one folder, with a time limit that adapts to the machine.

    Attributes:
        folder: the folder for runs, temporary files and the compiled code of libraries.
        limit_s: the time limit of a command: a minute plus three times the duration of the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limit_s = _FIRST_LIMIT_S
        self._measured = False
        caches = {name: str(folder / name.lower()) for name in ("TRITON_CACHE_DIR", "VLLM_CACHE_ROOT")}
        self._environment = {**os.environ, "TMPDIR": str(folder), **caches}

    def run(self, arguments: Sequence[str], kill_at: tuple[Path, int] | None = None, extra_s: float = 0.0) -> Outcome:
        """Runs `phf ARGUMENTS`.

        Args:
            kill_at: (a metrics file, lines); the command is killed when the file has so many lines.
            extra_s: seconds that this command may take beyond the limit.
        """
        started = time.monotonic()
        within_s = self.limit_s + extra_s
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                phf_command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
                start_new_session=True,
            )
            try:
                while process.poll() is None and time.monotonic() - started < within_s:
                    if kill_at is not None and len(read_lines(kill_at[0])) >= kill_at[1]:
                        break
                    time.sleep(_LOOK_EVERY_S)
                code, seconds = process.poll(), time.monotonic() - started
            finally:
                _end(process)
            stdout.seek(0)
            stderr.seek(0)
            lines = [line for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
            outcome = Outcome(code, lines[-1] if lines else "", stdout.read().decode(errors="replace"), seconds)
        if outcome.done and not self._measured:
            self._measured, self.limit_s = True, _LIMIT_S + _TIMES * seconds
        return outcome


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kills a command and all its descendants, because ranks run in sessions of their own."""
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(family, _TIME_TO_END_S)  # a process that still writes would keep the folder from being removed


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one mapping for each step."""
    return read_lines(run / "metrics.jsonl")


def attention_of(run: Path) -> str:
    """The attention implementation that a run used."""
    return str(json.loads((run / "manifest.json").read_text(encoding="utf-8"))["attention"])
