"""The charts of training: curves of metrics over steps, and maps of metrics with parts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from phfcli.core.losses.positions import ENTROPY_EDGES, POSITION_PARTS
from phfcli.core.reporting import score_charts
from phfcli.core.reporting.flow_charts import cells, name_axes
from phfcli.core.step_metrics import SHARES

_POINTS = 200  # of a curve, at most


def training_panels(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Iterable[str]
) -> dict[str, Callable[[Axes], None]]:
    """Metric -> chart with a line for each run, for those of the metrics that at least one run has."""
    panels: dict[str, Callable[[Axes], None]] = {}
    for key in keys:
        curves = {name: _curve(lines, key) for name, lines in runs.items() if lines}
        if any(curves.values()):
            unit = ", %" if key in SHARES else ""
            panels[key] = partial(score_charts.curves, curves=curves, name=key.replace("_", " ") + unit)
    return panels


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) points, shares in percent; in a long run each point is the mean of neighbouring steps."""
    scale = 100 if key in SHARES else 1
    points = [(float(line["step"]), scale * float(line[key])) for line in metrics if key in line]
    every = max(1, -(-len(points) // _POINTS))
    parts = [points[start : start + every] for start in range(0, len(points), every)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


COLUMNS = 20  # of a map; in a longer run each column is the mean of neighbouring steps

_POSITIONS = [f"{round(100 * (part + 1) / POSITION_PARTS)}" for part in range(POSITION_PARTS)]
_LEVELS = ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)]
MAPS: dict[str, tuple[str, list[str] | None, str]] = {  # metric -> (rows, their labels or None, caption)
    "divergence_by_position": (
        "along the rollout, to %",
        _POSITIONS,
        "Divergence by sixteenth of the rollout over training, nats a token.",
    ),
    "divergence_by_entropy": (
        "entropy of the student from",
        _LEVELS,
        "Divergence by the student's entropy over training, nats a token. Ranges without a token are 0.",
    ),
    "tokens_by_entropy": (
        "entropy of the student from",
        _LEVELS,
        "Share of the tokens by the student's entropy over training.",
    ),
    "layer_energy": (
        "layer of the flow",
        None,
        "Direction and geometry of each layer of the flow over training (eq. 8), mean over rollouts.",
    ),
}


def part_map(axes: Axes, metrics: Sequence[dict[str, Any]], key: str) -> None:
    """A map of parts x steps for a metric with a value for each part."""
    name, names, _ = MAPS[key]
    lines = [line for line in metrics if key in line]
    labels = names or [str(part + 1) for part in range(len(lines[0][key]))]
    every = -(-len(lines) // COLUMNS)
    groups = [lines[start : start + every] for start in range(0, len(lines), every)]
    rows = [[_mean(group, key, part) for group in groups] for part in range(len(labels))]
    steps = [str(group[-1]["step"]) for group in groups]
    cells(axes, rows, labels, steps, partial(_cell, name, labels, steps), name)
    name_axes(axes, "training step", name)


def _mean(lines: Sequence[dict[str, Any]], key: str, part: int) -> float:
    return sum(float(line[key][part]) for line in lines) / len(lines)


def _cell(name: str, labels: Sequence[str], steps: Sequence[str], row: int, column: int) -> str:
    return f"{name} {labels[row]}, step {steps[column]}"
