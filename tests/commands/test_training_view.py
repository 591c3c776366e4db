"""Watching a run: a table on a terminal, lines elsewhere."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from trained import SMALL

from phfcli.commands.output import GLUE
from phfcli.commands.train import step_line, step_table
from phfcli.core.config import TrainConfig

METRICS = {
    "step": 3,
    "loss": 0.01234567,
    "clip_share": 0.6427,
    "layer_energy": [0.1, 0.2],
    "a_term_of_its_own": 2.5,
    "tokens_per_s": 12345.6,
    "peak_memory_bytes": 3 * 2**30,
}


def shown(metrics: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(step_table(metrics, steps=100, left_s=3725.4))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_table_shows_each_number_in_its_unit() -> None:
    lines = [" ".join(line.split()) for line in shown(METRICS).splitlines()]
    assert lines[0] == "step 3 of 100, 1:02:05 left"
    assert "loss 0.01235" in lines
    assert "clip share 64.3 %" in lines
    assert "a term of its own 2.5" in lines
    assert "tokens/s 12,346" in lines
    assert "peak memory 3,072 MiB" in lines
    assert not [line for line in lines if "layer" in line]


def test_the_line_of_a_step_has_the_metrics_of_an_objective_of_ones_own() -> None:
    metrics = {**METRICS, "grad_norm": 0.1, "rollout_tokens": 7.0, "my_gap": 0.25}
    line = step_line(metrics, TrainConfig()).replace(GLUE, " ")
    assert "loss 0.0123" in line
    assert "a_term_of_its_own 2.5000  my_gap 0.2500" in line
    assert "peak" not in line  # the run's own figures are in the table
    assert "layer_energy" not in line


def on_a_terminal(*args: str) -> tuple[int, str]:
    """A real command whose stderr is a terminal, and all that the terminal got."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "phfcli", *args]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
    os.close(ours)
    return process.wait(), text.decode()


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_on_a_terminal(tmp_path: Path, quiet: bool) -> None:
    options = [option for option in SMALL if quiet or option != "--quiet"]
    code, text = on_a_terminal("train", "--steps", "2", "--output-dir", str(tmp_path / "run"), *options)
    assert code == 0
    for word in ("step 2 of 2, 0:00:00 left", "teacher distance", "flow geometry", "padding", "peak memory"):
        assert (word in text) != quiet
    assert text.count("warning:") == text.count("the clip takes") == 1  # on lines of their own, and also when quiet


def test_off_a_terminal_there_are_lines_alone(phf: Callable[..., Any], tmp_path: Path) -> None:
    done = phf("train", "--steps", 1, "--output-dir", tmp_path / "run", *SMALL[:-1])
    lines = done.err.splitlines()
    assert lines[0].startswith("training embedded with phf")
    assert lines[1] == "on cpu, torch.float32, attention by sdpa"
    assert lines[2].startswith("adapter on 28 modules: 4 x q_proj")
    assert lines[4] == "both readers start before any thinking"
    assert lines[5].startswith(
        "as published; the recipe recommended sets divergence.clip=null, divergence.one_stop=true"
    )
    assert lines[6].startswith("step    1/1  loss ")
    assert lines[6].endswith(" elapsed  0:00:00 left")
    assert all(line.startswith("warning: ") for line in lines[7:])


@pytest.mark.parametrize(
    "wrong", [("--data", "missing.jsonl"), ("--model", "missing-folder/x"), ("--set", "flow.layers=[99]")]
)
def test_nothing_is_said_to_train_that_cannot(phf: Callable[..., Any], wrong: tuple[str, str], tmp_path: Path) -> None:
    done = phf("train", "--steps", 1, "--output-dir", tmp_path / "run", *wrong)
    assert done.code == 2
    assert "training" not in done.err
