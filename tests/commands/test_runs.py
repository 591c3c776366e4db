"""phf runs, phf runs clean and phf watch, on folders as a training leaves them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from phfcli.core.storage.files import writing_alone

Phf = Callable[..., Any]

MANIFEST = {"created": "2026-11-30T12:00:00+00:00", "model": {"name": "embedded"}, "divergence": "jsd"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs: one that is done, one that stopped before a checkpoint, one that is damaged."""
    metrics = {"loss": 0.5, "divergence": 0.4, "grad_norm": 0.1, "rollout_tokens": 40, "tokens_per_s": 900.0}
    for name, steps in (("done", 2), ("stopped", 1)):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("objective: opsd\nmodel: embedded\nsteps: 2\n")
        (run / "manifest.json").write_text(json.dumps(MANIFEST))
        lines = [json.dumps({"step": step, **metrics}) + "\n" for step in range(1, steps + 1)]
        (run / "metrics.jsonl").write_text("".join(lines))
    checkpoint = tmp_path / "runs" / "done" / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer.json").write_text("{}")
    checkpoint.with_name("damaged-step-000001").mkdir()
    (tmp_path / "runs" / "done" / "evaluations.jsonl").write_text('{"step": 2, "bench": "b", "average": 0.75}\n')
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "config.yaml").write_text("steps: none\n")
    (tmp_path / "runs" / "broken" / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path / "runs"


def test_runs_are_listed_with_their_state(phf: Phf, folder: Path) -> None:
    found = {Path(run["folder"]).name: run for run in phf("runs", "--json").json}
    assert {name: run["state"] for name, run in found.items()} == {
        "done": "done",
        "stopped": "stopped",
        "broken": "damaged",
    }
    assert (found["done"]["step"], found["done"]["loss"], found["done"]["best"]) == (2, 0.5, 0.75)
    assert "75.0" in phf("runs", folder).out


def test_a_run_at_work_is_training(phf: Phf, folder: Path) -> None:
    with writing_alone(folder / "stopped" / "lock", "busy"):
        states = {Path(run["folder"]).name: run["state"] for run in phf("runs", "--json").json}
        assert states["stopped"] == "training"
        assert str(folder / "stopped") not in phf("runs", "clean", folder).out


def test_clean_names_first_and_removes_with_yes(phf: Phf, folder: Path) -> None:
    wanted = {str(folder / "stopped"), str(folder / "done/checkpoints/damaged-step-000001")}
    assert set(phf("runs", "clean", folder, "--json").json["folders"]) == wanted
    assert (folder / "stopped").exists()
    phf("runs", "clean", folder, "--yes")
    assert not (folder / "stopped").exists()
    assert (folder / "done/checkpoints/step-000002").exists()
    assert phf("runs", "clean", folder).out == "nothing to remove\n"


def test_watch_shows_the_steps_and_ends_with_the_run(phf: Phf, folder: Path) -> None:
    done = phf("watch", folder / "done")
    assert [line.split()[:2] for line in done.out.splitlines()] == [["step", "1"], ["step", "2"], ["done:", "step"]]
    assert done.out.count("jsd 0.4000") == 2  # as `phf train` calls it


def test_a_damaged_run_is_not_watched(phf: Phf, folder: Path) -> None:
    refused(phf("watch", folder / "broken"), "steps")


@pytest.mark.parametrize("words", [("runs", "nowhere"), ("runs", "a", "b"), ("runs", "--yes"), ("watch", "nowhere")])
def test_mistakes_are_one_line(phf: Phf, words: tuple[str, ...]) -> None:
    done = phf(*words)
    assert done.code == 2
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_what_another_program_had_registered_is_read_without_it(phf: Phf, run: Path) -> None:
    """The run is listed, verified and evaluated; only a training that goes on needs the objective itself."""
    config = run / "config.yaml"
    objective = next(line for line in config.read_text().splitlines() if line.startswith("objective:"))
    text = config.read_text().replace(objective, "objective: turns", 1)
    config.write_text(text[: text.index("# seal")])
    [listed] = phf("runs", run, "--json").json
    assert (listed["state"], listed["objective"]) == ("done", "turns")
    for command in (
        ("verify", run),
        ("eval", run, "--limit", 2, "--n", 1, "--engine", "transformers", "--quiet"),
        ("report", run, "-o", "page.html"),
        ("diagnose", run),
    ):
        done = phf(*command)
        assert done.code == 0, done.err
    refused(phf("train", "--resume", "--output-dir", run, "--steps", 3), "objective: 'turns' is unknown; choose from")
