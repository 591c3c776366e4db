"""Runs `phf` itself for a check: in a process of its own, within a time, with all of its files in one folder."""

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
_LIMIT_S, _TIMES = 60.0, 3.0  # afterwards: so many seconds, and so often what the first command took
_TIME_TO_END_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `code` is None where it took longer than it may; `said` is the last line of its stderr."""

    code: int | None
    said: str
    printed: str
    seconds: float

    @property
    def done(self) -> bool:
        return self.code == 0

    @property
    def why(self) -> str:
        """What went wrong, for the table."""
        return f"took longer than {self.seconds:.0f} s" if self.code is None else self.said or f"exit code {self.code}"


class Program:
    """Commands of `phf` that leave their files in one folder; what hangs is ended soon, on a slow machine later.

    Attributes:
        folder: for runs; temporary files and what libraries compile go there as well.
        limit_s: that a command may take: a minute, and three times what the first one took.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limit_s = _FIRST_LIMIT_S
        self._known = False
        caches = {name: str(folder / name.lower()) for name in ("TRITON_CACHE_DIR", "VLLM_CACHE_ROOT")}
        self._environment = {**os.environ, "TMPDIR": str(folder), **caches}

    def run(self, arguments: Sequence[str], kill_at: tuple[Path, int] | None = None, extra_s: float = 0.0) -> Outcome:
        """Runs `phf ARGUMENTS`; with kill_at, (a metrics file, lines), it is killed when the file has so many lines.

        extra_s: that this command may take beyond the limit.
        """
        started = time.monotonic()
        within_s = self.limit_s + extra_s
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                phf_command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=told,
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
            printed.seek(0)
            told.seek(0)
            lines = [line for line in told.read().decode(errors="replace").splitlines() if line.strip()]
            outcome = Outcome(code, lines[-1] if lines else "", printed.read().decode(errors="replace"), seconds)
        if outcome.done and not self._known:
            self._known, self.limit_s = True, _LIMIT_S + _TIMES * seconds
        return outcome


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
    psutil.wait_procs(family, _TIME_TO_END_S)  # one that still wrote would keep the folder


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run, by step."""
    return read_lines(run / "metrics.jsonl")


def attention_of(run: Path) -> str:
    """What has computed a run's attention."""
    return str(json.loads((run / "manifest.json").read_text(encoding="utf-8"))["attention"])
