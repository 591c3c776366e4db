"""The curves of training: which metrics are drawn, and what each shows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from phfcli.core.reporting import score_charts

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
    "base_distance": "KL divergence of the policy from its base on its rollouts, nats a token.",
    "base_kl": "KL divergence of the policy from its base, nats a token, which the loss holds down.",
    "reward": "Share of right completions in training.",
    "clip_share": "Share of the divergence that the clip takes, and its gradient with it.",
    "turned_tokens": "Share of the tokens whose gradient the clip turns against the divergence.",
    "state_cosine": "Cosine of the two readers' states, mean over layers and positions, then over rollouts.",
    "attention_gap": "Divergence of the shadow block's attention from the last block's, mean over rollouts.",
    "grad_norm": "Norm of the gradient before it is clipped.",
    "rollout_tokens": "Mean length of a rollout, in tokens.",
}
_POINTS = 200  # of a curve


def training_panels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Callable[[Axes], None]]:
    """A panel for each metric that one of the runs has, with a line for each run."""
    panels: dict[str, Callable[[Axes], None]] = {}
    for key in CURVES:
        curves = {name: _curve(lines, key) for name, lines in runs.items() if lines}
        if any(curves.values()):
            panels[key] = partial(score_charts.curves, curves=curves, name=key.replace("_", " "))
    return panels


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value), of a long run the means of neighbouring steps."""
    points = [(float(line["step"]), float(line[key])) for line in metrics if key in line]
    every = max(1, -(-len(points) // _POINTS))
    parts = [points[start : start + every] for start in range(0, len(points), every)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
