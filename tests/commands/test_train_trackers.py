"""phf train --report-to: what a tracker shows is what the run's own files hold."""

import json
import sqlite3
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from trained import SMALL, evaluations, metrics

import phfcli
from phfcli.core.training.trackers import Findings

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


def test_rollouts_without_a_flow_leave_its_picture_out(phf: Phf, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    short = ("--set", "rollout.max_new_tokens=1", "--set", "batch_size=2", "--quiet")
    done = phf("train", "--steps", 1, "--report-to", "tensorboard", "--output-dir", tmp_path / "run", *short)
    assert done.code == 0


def _alarms(run: Path) -> dict[str, str]:
    lines = (run / "alarms.jsonl").read_text().splitlines()
    return {line["alarm"]: line["sentence"] for line in map(json.loads, lines)}


def _is_drawn(picture: bytes) -> bool:
    """Whether a PNG has marks of several colours on white."""
    pixels = imread(BytesIO(picture))[..., :3]
    return bool((pixels == 1).all(-1).mean() > 0.5 and len({tuple(p) for p in pixels[::7, ::7].reshape(-1, 3)}) > 5)


def test_tensorboard_shows_rollouts_pictures_alarms_and_a_verdict(phf: Phf, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    run = tmp_path / "run"  # whose clip takes most of the divergence: an alarm
    options = ("--report-to", "tensorboard", "--checkpoint-every", 2, *SMALL, "--set", "evaluation.limit=2")
    assert phf("train", "--steps", 2, "--eval-every", 2, "--output-dir", run, *options).code == 0
    shown = EventAccumulator(str(run / "tensorboard"))
    shown.Reload()
    texts = {
        tag.removesuffix("/text_summary"): make_ndarray(shown.Tensors(tag)[-1].tensor_proto).item().decode()
        for tag in shown.Tags()["tensors"]
    }
    header, _, *rows = texts["rollouts"].splitlines()
    assert header == "| prompt | rollout | tokens |"
    assert len(rows) == 4
    assert all("Start with" in row and "boxed" in row for row in rows)
    [own] = evaluations(run)
    assert texts["evaluations"].splitlines()[2].startswith(f"| 2 | embedded-dev | {100 * own['average']:.4g} |")
    assert texts["verdict"].startswith("Best on embedded-dev so far: step 2")
    assert texts["verdict"].endswith("Alarms in training: run (clip).")
    assert _alarms(run) == {"clip": texts["alarm/clip"]}
    for name in ("training curves", "hidden flow"):
        [picture] = shown.Images(name)
        assert picture.step == 2
        assert _is_drawn(picture.encoded_image_string)


def test_wandb_keeps_tables_and_pictures_beside_the_run(
    phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    options = ("--report-to", "wandb", "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 2, "--output-dir", run, *options).code == 0
    media = run / "wandb" / "latest-run" / "files" / "media"
    [rollouts] = [json.loads(path.read_text()) for path in media.glob("table/rollouts_2_*.json")]
    assert rollouts["columns"] == ["prompt", "rollout", "tokens"]
    assert len(rollouts["data"]) == 4
    [verdict] = [json.loads(path.read_text()) for path in media.glob("table/verdict_2_*.json")]
    assert verdict["data"] == [["Alarms in training: run (clip)."]]
    assert sorted(path.name.split("_")[0] for path in media.glob("images/*")) == ["hidden flow", "training curves"]
    assert all(_is_drawn(path.read_bytes()) for path in media.glob("images/*"))


def test_trackio_keeps_tables_pictures_and_alerts(phf: Phf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    run = tmp_path / "run"
    options = ("--report-to", "trackio", "--checkpoint-every", 2, *SMALL)
    assert phf("train", "--steps", 2, "--output-dir", run, *options).code == 0
    with sqlite3.connect(tmp_path / "trackio" / "phf.db") as base:
        shown = [json.loads(text) for (text,) in base.execute("select metrics from metrics")]
        alerts = base.execute("select text, step from alerts").fetchall()
    [findings] = [line for line in shown if "verdict" in line]
    assert len(findings["rollouts"]["_value"]) == 4
    assert findings["hidden flow"]["_type"] == "trackio.image"
    assert alerts == [(_alarms(run)["clip"], 1)]


def test_a_tracker_of_ones_own_gets_the_findings_if_it_takes_them(tmp_path: Path) -> None:
    told: list[Any] = []

    class Plain:
        def store_init_configuration(self, values: dict[str, Any]) -> None: ...

        def log(self, values: dict[str, Any], step: int) -> None:
            told.append(("log", step))

        def finish(self) -> None:
            told.append("end")

    class Shown(Plain):
        def show(self, findings: Findings, step: int) -> None:
            told.append(("show", step, sorted(findings.tables), sorted(findings.pictures)))

        def alarm(self, name: str, sentence: str, step: int) -> None:
            told.append(("alarm", name, step))

    phfcli.register_tracker("plain-of-a-test", lambda _: Plain())
    phfcli.register_tracker("shown-of-a-test", lambda _: Shown())
    settings = {"batch_size": 4, "rollout.max_new_tokens": 48, "checkpoint_every": 2}
    for name in ("plain-of-a-test", "shown-of-a-test"):
        phfcli.train(steps=2, report_to=[name], output_dir=tmp_path / name, config=settings, progress=False)
    assert told[:3] == [("log", 1), ("log", 2), "end"]
    pictures = ["hidden flow", "training curves"]
    assert told[3:] == [("log", 1), ("alarm", "clip", 1), ("log", 2), ("show", 2, ["rollouts"], pictures), "end"]


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
