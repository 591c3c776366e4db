"""phf train --report-to: what a tracker shows is what the run's own files hold."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, evaluations, metrics

import phfcli
from phfcli.core.training.trackers import TrackedSample

Phf = Callable[..., Any]

OPTIONS = ("--eval-every", 2, "--set", "evaluation.limit=2", "--set", "divergence.clip=null", *SMALL)


@pytest.mark.slow
def test_tensorboard_shows_the_metrics_also_of_a_resumed_run(phf: Phf, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    options = ("--output-dir", run, "--report-to", "tensorboard", *OPTIONS)
    assert phf("train", "--steps", 2, *options).code == 0
    (run / "checkpoints" / "step-000002" / "trainer.json").unlink()  # both steps are done anew
    assert phf("train", "--steps", 3, *options, "--resume").code == 0
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    for name in ("loss", "grad_norm", "layer_energy/4"):
        wanted = [line["layer_energy"][3] if "/" in name else line[name] for line in metrics(run)]
        points = {event.step: event.value for event in shown.Scalars(name)}
        assert [points[step] for step in (1, 2, 3)] == pytest.approx(wanted)
        assert len(shown.Scalars(name)) == 3
    scores = {event.step: event.value for event in shown.Scalars("evaluation/average")}
    assert scores == {line["step"]: pytest.approx(line["average"]) for line in evaluations(run)}


COLUMNS = ["prompt", "rollout", "tokens", "reward"]


@pytest.mark.slow
def test_tensorboard_shows_the_first_rollouts_of_a_checkpoint(phf: Phf, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    options = ("--report-to", "tensorboard", "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 2, "--output-dir", tmp_path / "run", *options).code == 0
    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    shown.Reload()
    [event] = shown.Tensors("rollouts/text_summary")
    header, _, *rows = make_ndarray(event.tensor_proto).item().decode().splitlines()
    assert (event.step, header) == (2, "| prompt | rollout | tokens | reward |")
    assert len(rows) == 4
    assert all("Start with" in row and "boxed" in row for row in rows)
    assert {row.split(" | ")[-1] for row in rows} == {"- |"}


def test_wandb_keeps_the_rollouts_beside_the_run(phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    options = ("--report-to", "wandb", "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 2, "--output-dir", run, *options).code == 0
    media = run / "wandb" / "latest-run" / "files" / "media"
    [rollouts] = [json.loads(path.read_text()) for path in media.glob("table/rollouts_2_*.json")]
    assert rollouts["columns"] == COLUMNS
    assert len(rollouts["data"]) == 4


def test_trackio_keeps_the_rollouts(phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    options = ("--report-to", "trackio", "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 2, "--output-dir", tmp_path / "run", *options).code == 0
    with sqlite3.connect(tmp_path / "trackio" / "phf.db") as base:
        shown = [json.loads(text) for (text,) in base.execute("select metrics from metrics")]
    [rollouts] = [line["rollouts"]["_value"] for line in shown if "rollouts" in line]
    assert len(rollouts) == 4


@pytest.mark.slow
def test_a_tracker_of_ones_own_gets_samples_if_it_takes_them(tmp_path: Path) -> None:
    told: list[Any] = []

    class Plain:
        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, Any], step: int) -> None:
            assert all(isinstance(value, int | float) for value in values.values())
            told.append(("log", step))

        def finish(self) -> None:
            told.append("end")

    class Samples(Plain):
        def log_samples(self, samples: Sequence[TrackedSample], step: int) -> None:
            told.append(("samples", step, len(samples), samples[0].reward is None))

    phfcli.register_tracker("plain-of-a-test", lambda _: Plain())
    phfcli.register_tracker("samples-of-a-test", lambda _: Samples())
    settings = {"batch_size": 4, "rollout.max_new_tokens": 48, "checkpoint_every": 2}
    for name in ("plain-of-a-test", "samples-of-a-test"):
        phfcli.train(steps=2, report_to=[name], output_dir=tmp_path / name, config=settings, progress=False)
    assert told[:3] == [("log", 1), ("log", 2), "end"]
    assert told[3:] == [("log", 1), ("log", 2), ("samples", 2, 4, True), "end"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorbord", "did you mean 'tensorboard'?"),
        ("wandb", "the package of wandb is not installed: pip install wandb"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(
    phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    done = phf("train", "--report-to", name, "--output-dir", tmp_path / "run", *SMALL)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (tmp_path / "run").exists()
