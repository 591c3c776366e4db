"""An evaluation that is killed again and again: `python benchmarks/kill_eval.py [--kills 20] [--engine transformers]`.

`phf eval` is started, ended by SIGKILL at a random moment and started again, so many times in a row, and then left to
finish. A moment is a number of seconds of work, of all its processes, so that it means the same on a busy machine.
Beside it stands the same evaluation without a stop. The exit code is 1 unless every (problem, sample) key stands
exactly once in samples.jsonl, the texts are the same (for vLLM, whose sums depend on what is computed together, the
number of other ones is only told), and no process is left behind.
"""

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

_LOOK_S = 0.05
_GRACE_S = 20.0  # for processes to notice that their parent is gone

out = Console(highlight=False)


def main(
    kills: Annotated[int, typer.Option(help="Stops in a row.")] = 20,
    engine: Annotated[str, typer.Option(help="Of both evaluations.")] = "transformers",
    limit: Annotated[int, typer.Option(help="Problems.")] = 128,
    n: Annotated[int, typer.Option(help="Samples a problem.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill `phf eval` at random moments; no sample may be lost, doubled or changed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "phfcli", "eval", "embedded", "--engine", engine, "--quiet"]
        command += ["--limit", str(limit), "--n", str(n)]
        work = _run([*command, "--output-dir", f"{folder}/whole"], folder)
        out.print(f"without a stop: {work:.1f} s of work")
        stopped = [*command, "--output-dir", f"{folder}/stopped"]
        chance = random.Random(seed)
        for number in range(1, kills + 1):
            moment = chance.uniform(0.0, 0.7 * work)
            ended = _run(stopped, folder, moment) < moment
            have = len(_lines(Path(folder, "stopped")))
            end = "ended by itself" if ended else f"killed after {moment:4.1f} s of work"
            out.print(f"{number:>2} {end}: {have} samples on disk")
        _run(stopped, folder)
        faults = _faults(_lines(Path(folder, "whole")), _lines(Path(folder, "stopped")), exact=engine == "transformers")
        faults += [f"process {process.pid} is left: {process.name()}" for process in _left_behind(folder)]
    for fault in faults:
        out.print(f"FAULT {fault}")
    if faults:
        raise typer.Exit(1)
    out.print(f"{limit * n} keys, each exactly once, after {kills} stops")


def _run(command: list[str], folder: str, most: float = math.inf) -> float:
    """Runs the command until it has worked so long, then kills it; returns the seconds it has worked."""
    mark = {**os.environ, "TMPDIR": folder}  # inherited by every process that it starts
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=mark)
    work = 0.0
    while process.poll() is None:
        work = max(work, _work(process))
        if work >= most:
            process.kill()
            process.wait()
            return work
        time.sleep(_LOOK_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return work


def _work(process: psutil.Process) -> float:
    """CPU seconds of a process and of all that it has started."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of an evaluation's samples, as another program would read them."""
    lines = []
    for path in folder.glob("evals/*/samples.jsonl"):
        lines += [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return lines


def _faults(whole: list[dict[str, Any]], stopped: list[dict[str, Any]], exact: bool) -> list[str]:
    keys = Counter((line["problem"], line["sample"]) for line in stopped)
    faults = [f"{key} stands {count} times" for key, count in keys.items() if count > 1]
    texts = {(line["problem"], line["sample"]): line["text"] for line in whole}
    faults += [f"{key} is missing" for key in texts.keys() - keys.keys()]
    changed = sum(texts.get((line["problem"], line["sample"])) != line["text"] for line in stopped)
    out.print(f"{changed} of {len(stopped)} texts differ from those of the evaluation without a stop")
    return [*faults, f"{changed} texts differ"] if exact and changed else faults


def _left_behind(folder: str) -> list[psutil.Process]:
    """Processes that an evaluation in the folder has started and that have not ended in time."""
    deadline = time.monotonic() + _GRACE_S
    while (left := [p for p in psutil.process_iter() if _belongs(p, folder)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def _belongs(process: psutil.Process, folder: str) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("TMPDIR") == folder
    except psutil.Error:
        return False


if __name__ == "__main__":
    typer.run(main)
