"""The curves of a training run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from phfcli.core.losses.positions import ENTROPY_EDGES, POSITION_PARTS
from phfcli.core.names import SHARES
from phfcli.core.reporting import score_charts
from phfcli.core.reporting.flow_charts import cells, name_axes

CURVES = {
    "loss": "Loss of each step: the whole objective, so it compares runs of one objective only.",
    "divergence": "Divergence of the next-token distributions, mean over tokens, before its weight.",
    "flow": "Flow loss (eq. 13), mean over rollouts.",
    "pointwise": "Pointwise loss of the states, mean over rollouts.",
    "entropy": "Entropy of the policy's next token, in nats.",
    "fork_share": "Share of tokens that are forks: as open as a choice between two, or more.",
    "repetition": "Share of runs of eight tokens that the rollout has written before.",
    "truncated": "Share of rollouts cut at the token limit.",
    "engine_gap": "Gap between the engine's and the trainer's log-probability of a token, in nats.",
    "distinct_answers": "Different answers of a problem's rollouts, mean over problems.",
    "base_kl": "KL divergence of the policy from its base, nats a token, which the loss holds down.",
    "reward": "Share of right completions in training.",
    "clip_share": "Share of the divergence that the clip takes, and its gradient with it.",
    "turned_tokens": "Share of the tokens whose gradient the clip turns against the divergence.",
    "state_cosine": "Cosine of the two readers' states, mean over layers and positions, then over rollouts.",
    "attention_gap": "Divergence of the shadow block's attention from the last block's, mean over rollouts.",
    "grad_norm": "Norm of the gradient before it is clipped.",
    "rollout_tokens": "Mean length of a rollout, in tokens.",
}
DETAILS = {  # of the page's fold
    "flow_direction": "Direction term of the flow (eq. 6), mean over layers, then over rollouts.",
    "flow_geometry": "Geometry term of the flow (eq. 7), mean over layers, then over rollouts.",
    "flow_adjacent": "Term of neighbouring layers (eq. 10), mean over pairs of layers, then over rollouts.",
    "reverse_kl": "Student's log-probability of the drawn token less the teacher's: an estimate of the KL divergence.",
    "nll": "Negative log-likelihood of the reference, nats a token.",
    "think": "Divergence of the shadow block's prediction from the last block's, weighted by advantages (OISD, eq. 7).",
    "clipped_entries": "Share of the (token, word) entries that are clipped.",
    "clipped_tokens": "Share of the tokens with a clipped entry.",
    "weights_capped": "Share of the tokens whose importance weight is at its cap.",
    "engine_kl": "Estimate of KL(engine || trainer), nats a token.",
    "engine_gap_largest": "Largest gap between the engine's and the trainer's log-probability of a token, in nats.",
    "flat_groups": "Share of the problems whose completions all have the same reward, which teach nothing.",
    "foreign_answers": "Share of the problems whose teacher is shown another answer than the gold.",
    "siblings": "Share of the problems for which a right rollout was there to be shown to the teacher.",
    "teacher_distance": "Euclidean distance of the teacher's trained weights from the student's.",
    "states_teacher_distance": "The same of the teacher that gives the hidden states, where that is another one.",
    "lr": "Learning rate.",
    "padding": "Share of the computed positions that hold nothing.",
    "staleness": "Updates between the weights that drew the rollouts and those that train on them.",
    "tokens_per_s": "Tokens of rollouts over the seconds of the whole step.",
    "rollout_seconds": "Seconds of the step's sampling, or of the wait for it.",
    "batch_seconds": "Seconds of grading and of making batches.",
    "teacher_seconds": "Seconds of the step's passes without a gradient.",
    "student_seconds": "Seconds of the student's pass.",
    "loss_seconds": "Seconds of the loss, its backward pass and the step's metrics.",
    "update_seconds": "Seconds of the weights' update, and of what several processes sum.",
    "seconds": "Seconds of the whole step.",
    "peak_memory_bytes": "The most memory that a process of the run has held so far, in bytes.",
}
_POINTS = 200  # of a curve


def training_panels(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], keys: Iterable[str]
) -> dict[str, Callable[[Axes], None]]:
    """A panel for each of these metrics that one of the runs has, with a line for each run."""
    panels: dict[str, Callable[[Axes], None]] = {}
    for key in keys:
        curves = {name: _curve(lines, key) for name, lines in runs.items() if lines}
        if any(curves.values()):
            unit = ", %" if key in SHARES else ""
            panels[key] = partial(score_charts.curves, curves=curves, name=key.replace("_", " ") + unit)
    return panels


def own_metrics(runs: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """The numbers that an objective of the user's own has logged, each with its caption."""
    known = {"step", *CURVES, *DETAILS}
    found = [key for lines in runs for line in lines for key, value in line.items() if isinstance(value, int | float)]
    return {key: f"{key}, as the objective itself gives it." for key in dict.fromkeys(found) if key not in known}


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value), of a long run the means of neighbouring steps; shares in percent."""
    scale = 100 if key in SHARES else 1
    points = [(float(line["step"]), scale * float(line[key])) for line in metrics if key in line]
    every = max(1, -(-len(points) // _POINTS))
    parts = [points[start : start + every] for start in range(0, len(points), every)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


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
