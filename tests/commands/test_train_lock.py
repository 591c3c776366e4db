"""One process trains in a run; evaluations of a live run keep their checkpoint."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, checkpoint_steps, metrics

Phf = Callable[..., Any]


@pytest.mark.slow
def test_a_second_training_in_the_same_folder_is_refused(phf: Phf, tmp_path: Path) -> None:
    assert phf("train", *SMALL, "--steps", 1, "--output-dir", "run").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with (tmp_path / "run/lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for options in (["--resume"], []):
            done = phf("train", *SMALL, "--steps", 2, "--output-dir", "run", *options)
            assert done.code == 2
            assert "another `phf train` is at work in this run" in done.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert phf("train", *SMALL, "--steps", 2, "--output-dir", "run", "--resume").code == 0


def test_a_start_that_is_refused_leaves_no_folder(phf: Phf, tmp_path: Path) -> None:
    done = phf("train", *SMALL, "--output-dir", "new/run", "--data", "nowhere.jsonl")
    assert done.code == 2
    assert not (tmp_path / "new").exists()


def test_resuming_what_is_no_run_is_told(phf: Phf, tmp_path: Path) -> None:
    for name in ("other", "rum"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    nearest = "; the run with the nearest name is rum"
    must = phf("train", *SMALL, "--output-dir", "run", "--resume=must")
    assert (must.code, must.err) == (2, f"phf: resume: no run is in run{nearest}\n")
    assert not (tmp_path / "run").exists()
    loud = [option for option in SMALL if option != "--quiet"]
    done = phf("train", *loud, "--steps", 1, "--output-dir", "run", "--resume")
    assert (done.code, done.err.splitlines()[0]) == (0, f"resume: no run is in run yet, so one begins there{nearest}")
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b"garbage\n")
    again = phf("train", "--steps", 2, "--output-dir", "run", "--resume=must", "--quiet")
    assert (again.code, again.err.count("\n")) == (0, 1)
    assert "metrics.jsonl line 2: " in again.err
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.slow
def test_a_checkpoint_under_evaluation_is_not_pruned(phf: Phf, tmp_path: Path) -> None:
    train = ("train", *SMALL, "--checkpoint-every", 1, "--keep", 1, "--output-dir", "run", "--resume")
    assert phf(*train, "--steps", 1).code == 0
    with (tmp_path / "run/checkpoints/step-000001/trainer.json").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert phf(*train, "--steps", 2).code == 0
        assert checkpoint_steps(tmp_path / "run") == [1, 2]
    assert phf(*train, "--steps", 3).code == 0
    assert checkpoint_steps(tmp_path / "run") == [3]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_the_folder_should_be(phf: Phf, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    done = phf("train", *SMALL, "--output-dir", name)
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1
    assert "file" in done.err
