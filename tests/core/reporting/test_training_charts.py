"""Curves and maps of training: every metric that a run may log has a picture and a description."""

import json
import re
from html import unescape
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from phfcli.core.reporting.report_page import write_report
from phfcli.core.reporting.training_charts import MAPS, training_panels
from phfcli.core.step_metrics import CURVES, DETAILS, SHARES, own_metrics

PAGE = Path(__file__).parents[3] / "docs" / "run-files.md"
DRAWN = {*CURVES, *DETAILS, *MAPS}


def described() -> list[str]:
    """The fields of metrics.jsonl that the page describes."""
    table = (
        PAGE.read_text(encoding="utf-8").split("## The fields of metrics.jsonl")[1].split("evaluations.jsonl has")[0]
    )
    return [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]


def test_every_described_metric_has_a_picture_and_the_other_way_round() -> None:
    # that a run logs nothing else: test_every_objective_trains, and test_every_setting
    names = described()
    assert len(names) == len(set(names))
    assert set(names) == {"step", *DRAWN}


def report(tmp_path: Path, *lines: dict[str, object]) -> str:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("objective: phf\n")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(tmp_path / "report.html", [str(run)], "x")
    return (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_every_metric_is_on_the_page(tmp_path: Path) -> None:
    lengths = dict.fromkeys(MAPS, 4) | {"divergence_by_position": 16}
    lengths |= dict.fromkeys(("divergence_by_entropy", "tokens_by_entropy"), 8)
    values = {name: [0.25] * lengths[name] if name in MAPS else 0.25 for name in DRAWN}
    page = unescape(report(tmp_path, *({"step": step, **values} for step in (1, 2))))
    captions = CURVES | DETAILS | {name: f"run: {caption}" for name, (_, _, caption) in MAPS.items()}
    assert [name for name in sorted(DRAWN) if f"<figcaption>{captions[name]}</figcaption>" not in page] == []


def test_what_an_objective_of_ones_own_logs_is_drawn(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 1.0, "my_gap": 0.5, "by_part": [1.0]}, {"step": 2, "loss": 1.0, "my_gap": 0.25}]
    assert own_metrics([lines]) == {"my_gap": "my_gap, as the objective itself gives it."}
    page = report(tmp_path, *lines)
    assert "run, step 1: 0.5" in page
    assert "run, step 2: 0.25" in page
    assert "my gap" in page


def test_what_a_caption_calls_a_share_is_drawn_in_percent() -> None:
    captions = CURVES | DETAILS
    assert {key for key, caption in captions.items() if caption.startswith("Share of")} == set(SHARES)
    figure = Figure()
    axes = figure.subplots()
    training_panels({"run": [{"step": 1, "clip_share": 0.25}, {"step": 2, "clip_share": 0.5}]}, ["clip_share"])[
        "clip_share"
    ](axes)
    assert axes.get_ylabel() == "clip share, %"
    assert list(axes.lines[0].get_ydata()) == [25, 50]


@pytest.mark.parametrize(("value", "limits"), [(0.0, (0, 1)), (3.0, (0, 6)), (-2.0, (-4, 0))])
def test_a_curve_of_one_value_has_plain_axes(value: float, limits: tuple[float, float]) -> None:
    axes = Figure().subplots()
    training_panels({"run": [{"step": step, "reward": value} for step in (1, 2)]}, ["loss", "reward"])["reward"](axes)
    scale = 100 if "reward" in SHARES else 1
    assert axes.get_ylim() == (limits if value == 0 else tuple(scale * limit for limit in limits))
