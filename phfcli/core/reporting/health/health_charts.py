"""Maps of a run: metrics that have a value for each part, step by step. docs/probe.md says what the parts are."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from phfcli.core.losses.token_parts import ENTROPY_EDGES, POSITION_PARTS
from phfcli.core.reporting.flow_charts import cells, name_axes

COLUMNS = 20  # of a map; in a longer run each is the mean of neighbouring steps

_POSITIONS = [f"{round(100 * (part + 1) / POSITION_PARTS)}" for part in range(POSITION_PARTS)]
_LEVELS = ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)]
MAPS: dict[str, tuple[str, list[str] | None, str]] = {  # what the rows are, their names (None: numbers), the caption
    "divergence_by_position": (
        "along the rollout, to %",
        _POSITIONS,
        "Divergence by sixteenth of the rollout over training, nats a token.",
    ),
    "divergence_by_entropy": (
        "entropy of the student from",
        _LEVELS,
        "Divergence by the student's own uncertainty over training, nats a token. Parts without a token are 0.",
    ),
    "tokens_by_entropy": (
        "entropy of the student from",
        _LEVELS,
        "Share of the tokens by the student's own uncertainty over training.",
    ),
    "layer_energy": (
        "layer of the flow",
        None,
        "Direction and geometry of each layer of the flow over training (eq. 8), mean over rollouts.",
    ),
    "grad_norm_by_depth": (
        "quarter of the depth",
        None,
        "Norm of the gradient in each quarter of the decoder blocks over training.",
    ),
}


def part_map(axes: Axes, metrics: Sequence[dict[str, Any]], key: str) -> None:
    """Parts x steps of a metric that has a value for each part."""
    name, names, _ = MAPS[key]
    lines = [line for line in metrics if key in line]
    labels = names or [str(part + 1) for part in range(len(lines[0][key]))]
    every = -(-len(lines) // COLUMNS)
    groups = [lines[start : start + every] for start in range(0, len(lines), every)]
    rows = [[_mean(group, key, part) for group in groups] for part in range(len(labels))]
    steps = [str(group[-1]["step"]) for group in groups]
    cells(axes, rows, labels, steps, partial(_cell, name, labels, steps))
    name_axes(axes, "training step", name)


def _mean(lines: Sequence[dict[str, Any]], key: str, part: int) -> float:
    return sum(float(line[key][part]) for line in lines) / len(lines)


def _cell(name: str, labels: Sequence[str], steps: Sequence[str], row: int, column: int) -> str:
    return f"{name} {labels[row]}, step {steps[column]}"
