"""A training run that is killed again and again: `python benchmarks/kill_train.py [--kills 20] [--processes 2]`.

`phf train --resume` is started, ended by SIGKILL at a random moment and started again, so many times, and then left to
finish. Beside it stands the same run without a stop. The exit code is 1 unless adapter, teacher and optimizer are
bitwise the same at the end, so are the metrics of every step but for what is measured of the machine, and nothing is
left half-written. Of several processes any one is killed, or their launcher; all have to
end by themselves.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from rich.console import Console
from safetensors.torch import load_file

from phfcli.core.runs.folder import checkpoints_of, step_name
from phfcli.core.step_metrics import MACHINE_METRICS

_STATE = ("adapter_model", "teacher", "optimizer")

out = Console(highlight=False, soft_wrap=True)


def main(
    kills: Annotated[int, typer.Option(help="Stops of a process that is at work.")] = 20,
    steps: Annotated[int, typer.Option(help="Of the run.")] = 60,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    processes: Annotated[int, typer.Option(help="That train together.")] = 1,
) -> None:
    """Kill `phf train` at random moments; the run must end as if nothing had happened."""
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder, "whole"), Path(folder, "stopped")
        command = [sys.executable, "-m", "phfcli", "train", "--quiet", "--steps", str(steps)]
        command += [
            "--checkpoint-every",
            str(every),
            "--keep",
            "2",
            "--processes",
            str(processes),
            "--set",
            "batch_size=8",
            "--resume",
            "--output-dir",
        ]
        loading, working = _time(command, whole)
        out.print(f"without a stop: {loading:.1f} s until step 1 is done, then {working:.1f} s")
        redone, chance = 0, random.Random(seed)
        for number in range(1, kills + 1):
            moment = chance.uniform(0.7 * loading, loading + 1.5 * working / kills)
            ended = _kill_at([*command, str(stopped)], moment, chance)
            done, saved = _lines(stopped), [step for step, _ in checkpoints_of(stopped)][-1:] or [0]
            redone += len(done) - saved[0]
            note = f"{len(done)} steps done, the last checkpoint is of step {saved[0]}"
            out.print(f"stop {number:>2} {'(had ended) ' if ended else ''}after {moment:5.1f} s: {note}")
        subprocess.run([*command, str(stopped)], check=True, stdout=subprocess.DEVNULL)
        faults = _faults(whole, stopped, steps)
    for fault in faults:
        out.print(f"FAULT {fault}")
    if faults:
        raise typer.Exit(1)
    out.print(f"{steps} steps, bitwise the same after {kills} stops; {redone} of them were done more than once")


def _time(command: list[str], run: Path) -> tuple[float, float]:
    """Runs it without a stop; returns the seconds until its first step is on disk, and from there to its end."""
    started = time.monotonic()
    process = subprocess.Popen([*command, str(run)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not _lines(run):
        time.sleep(0.05)
    first = time.monotonic()
    if process.wait():
        raise typer.Exit(1)
    return first - started, time.monotonic() - first


def _kill_at(command: list[str], moment: float, chance: random.Random) -> bool:
    """Kills one of the command's processes; returns whether it had ended by itself before that."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        everyone = [(own := psutil.Process(process.pid)), *own.children()]
        chance.choice([one for one in everyone if one == own or "RANK" in one.environ()]).kill()
        process.wait()
        psutil.wait_procs(everyone)
        return False
    return True


def _lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics, but for what is measured of the machine."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    return [{key: value for key, value in line.items() if key not in {*MACHINE_METRICS, "seal"}} for line in lines]


def _faults(whole: Path, stopped: Path, steps: int) -> list[str]:
    faults = [] if _lines(whole) == _lines(stopped) else ["the metrics differ"]
    for name in _STATE:
        file = Path("checkpoints", step_name(steps), f"{name}.safetensors")
        one, other = load_file(whole / file), load_file(stopped / file)
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            faults.append(f"{file} differs")
    return faults + [f"{path.relative_to(stopped)} is left" for path in stopped.rglob(".*")]


if __name__ == "__main__":
    typer.run(main)
