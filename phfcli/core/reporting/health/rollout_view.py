"""A run's own rollouts for the page: each token shaded by divergence, at every saved step."""

from collections.abc import Mapping, Sequence
from typing import Any

from phfcli.core.reporting.run_summaries import RunSummary
from phfcli.core.runs.rollout_readings import load_readings

ROLLOUTS, STEPS, TOKENS = 3, 5, 400  # of each run, so many are on the page
FULL = 0.5  # nats, from which on a token has the darkest shade

_SHADES = 10


def rollout_views(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """Of each run that has any the rollouts that it followed, with what was read of them at each step."""
    views = []
    for run in runs:
        readings = _spread(load_readings(run.folder))
        if readings:
            places = _most_divergent(readings)
            views.append({"name": run.name, "rollouts": [_rollout(readings, place) for place in places]})
    return views


def _spread(readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many of the steps, the first and the last among them."""
    if len(readings) <= STEPS:
        return list(readings)
    return [readings[round(place * (len(readings) - 1) / (STEPS - 1))] for place in range(STEPS)]


def _most_divergent(readings: Sequence[dict[str, Any]]) -> list[int]:
    """Places of the rollouts on which the readers differed most at the first step, where there is most to see."""
    count = min(len(reading["rollouts"]) for reading in readings)
    first = readings[0]["rollouts"]
    return sorted(range(count), key=lambda place: -sum(first[place]["divergence"]))[:ROLLOUTS]


def _rollout(readings: Sequence[dict[str, Any]], place: int) -> dict[str, Any]:
    first = readings[0]["rollouts"][place]
    steps = [(reading["step"], _tokens(reading["rollouts"][place])) for reading in readings]
    cut = max(0, len(first["tokens"]) - TOKENS)
    return {"problem": first["problem"], "context": first["context"], "steps": steps, "cut": cut}


def _tokens(rollout: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = [rollout[name][:TOKENS] for name in ("tokens", "student", "teacher", "divergence", "clip_took")]
    return [
        {
            "text": text.replace("\n", "⏎"),
            "shade": min(_SHADES, round(_SHADES * max(divergence, 0) / FULL)),
            "told": _told(student, teacher, divergence, taken, rollout["flow"].get(str(position))),
        }
        for position, (text, student, teacher, divergence, taken) in enumerate(zip(*columns, strict=True))
    ]


def _told(student: float, teacher: float, divergence: float, taken: float, flow: float | None) -> str:
    words = f"student {student:.1%}, teacher {teacher:.1%}, {divergence:.3f} nats, the clip took {taken:.3f}"
    return words if flow is None else f"{words}, flow {flow:.3f}"
