"""A disk that is full: one line, exit code 1, and what was complete is still there and is gone on from."""

import resource
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, checkpoint_steps, metrics, same_end

from phfcli.core.runs.folder import step_name

Phf = Callable[..., Any]


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond so many bytes, which the system refuses like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(done: Any, *parts: str) -> None:
    """One line and exit code 1."""
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("phf: ")
    assert line.endswith("what was complete on disk is intact")
    for part in parts:
        assert part in line


def fill(disk: Path, free: int) -> Path:
    """Leaves so many bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while (left := free_bytes(disk) - free) > 0:
            file.write(b"x" * min(left, 2**20))
            file.flush()
    return filler


def free_bytes(disk: Path) -> int:
    return int(subprocess.run(["df", "-B1", "--output=avail", disk], capture_output=True, check=True).stdout.split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("free_share", [0.1, 0.4, 0.7, 0.95])  # of a checkpoint with its flow: where the writing ends
def test_a_full_disk_leaves_the_last_checkpoint(
    phf: Phf, small_disk: Callable[[str], Path], evaluated_run: Path, free_share: float
) -> None:
    disk = small_disk("64m")
    run = disk / "run"
    empty = free_bytes(disk)
    assert phf("train", "--steps", 1, "--output-dir", run, *SMALL).code == 0
    filler = fill(disk, int(free_share * (empty - free_bytes(disk))))
    resume = ("train", "--resume", "--steps", 2, "--output-dir", run, "--quiet")
    refused(phf(*resume), f"{step_name(2)}", "No space left on device")
    assert [path.name for path in (run / "checkpoints").iterdir()] == [step_name(1)]
    assert not list(run.rglob(".*"))
    filler.unlink()
    assert phf(*resume).code == 0
    assert same_end(evaluated_run, run, 2)


@pytest.mark.slow
def test_metrics_on_a_full_disk(phf: Phf, small_disk: Callable[[str], Path]) -> None:
    run = small_disk("32k") / "run"
    tiny = ("--checkpoint-every", 100, "--set", "batch_size=1", "--set", "rollout.max_new_tokens=4", "--quiet")
    done = phf("train", "--output-dir", run, *tiny)
    alarm, *lines = done.err.splitlines(keepends=True)
    assert alarm.startswith("warning: at step 1 every rollout is cut")
    refused(replace(done, err="".join(lines)), f"{run / 'metrics.jsonl'}: No space left on device")
    assert checkpoint_steps(run) == []


@pytest.mark.slow
def test_a_file_that_may_not_grow(phf: Phf, small_files: Callable[[int], None], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert phf("train", "--steps", 1, "--output-dir", run, *SMALL).code == 0
    small_files(100_000)
    done = phf("train", "--resume", "--steps", 2, "--output-dir", run, "--quiet")
    refused(done, "File too large")  # already of the adapter that is written before step 1, to try it
    assert checkpoint_steps(run) == [1]
    assert not list(run.rglob(".*"))
    assert len(metrics(run)) == 1


def test_a_disk_that_may_not_be_written(phf: Phf, small_disk: Callable[[str], Path]) -> None:
    run = small_disk("1m,ro") / "run"
    done = phf("train", "--steps", 1, "--output-dir", run, *SMALL)
    assert (done.code, done.out, done.err.count("\n")) == (
        2,
        "",
        1,
    )  # nothing has begun: another folder is all it takes
    assert f"output_dir {run}: cannot be written: Read-only file system" in done.err
