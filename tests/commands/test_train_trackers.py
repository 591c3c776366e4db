"""phf train --report-to: what a tracker shows is what the run's own files hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, evaluations, metrics

Phf = Callable[..., Any]

OPTIONS = ("--eval-every", 2, "--set", "evaluation.limit=2", "--set", "divergence.clip=null", *SMALL)


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


@pytest.mark.parametrize(
    ("name", "words"),
    [("tensorbord", "did you mean 'tensorboard'?"), ("wandb", "its package is not installed: pip install wandb")],
)
def test_a_tracker_that_is_not_there_is_refused(
    phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    done = phf("train", "--report-to", name, "--output-dir", tmp_path / "run", *SMALL)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (tmp_path / "run").exists()
