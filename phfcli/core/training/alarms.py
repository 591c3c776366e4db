"""Alarms: signs that a run needs attention, each raised once and written to RUN/alarms.jsonl.

Some compare a step with the first steps of the run, so that a model which is certain or brief from the start raises
none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FILE = "alarms.jsonl"
FIRST_STEPS = 5  # their means are the levels that later steps are compared with

CLIP_TAKES = 0.5  # of the divergence
CLIP_TURNS = 0.05  # of the tokens, against the divergence
ENTROPY_LEFT = 0.05  # of the first steps' entropy
LENGTH_GROWN = 2.0  # times the first steps' length
TRUNCATED_MORE = 0.3  # above the first steps' share
LOOPS_MORE = 0.05  # above the first steps' share of rollouts
ENGINE_GAP = 0.1  # nats a token
SIGNAL_LEFT = 0.02  # of the first steps' divergence
FLAT_GROUPS = 0.95  # of the groups, whose rewards are all equal
FOREIGN_ANSWERS = 0.5  # of the problems

Metrics = Mapping[str, Any]


class Trend(NamedTuple):
    """A step's metrics, and the means of the run's first steps, which are empty until these are over."""

    now: Metrics
    first: Metrics

    @property
    def step(self) -> int:
        return int(self.now["step"])

    def both(self, name: str) -> tuple[float, float] | None:
        """A metric's value now and its mean over the first steps; None where one of them is missing."""
        return (self.now[name], self.first[name]) if name in self.now and name in self.first else None


@dataclass
class Alarms:
    """The names of the alarms that a run has raised, and the metrics of its first steps."""

    raised: set[str] = field(default_factory=set)
    first: list[Metrics] = field(default_factory=list)

    def look(self, metrics: Metrics) -> list[dict[str, Any]]:
        """The alarms that this step raises for the first time: their step, name and sentence."""
        alarms = []
        trend = Trend(metrics, _means(self.first) if len(self.first) >= FIRST_STEPS else {})
        for name, rule in RULES.items():
            sentence = None if name in self.raised else rule(trend)
            if sentence is not None:
                self.raised.add(name)
                alarms.append({"step": metrics["step"], "alarm": name, "sentence": sentence})
        if len(self.first) < FIRST_STEPS:
            self.first.append(metrics)
        return alarms


def resumed_alarms(metrics: Sequence[Metrics], raised: Sequence[Mapping[str, Any]]) -> Alarms:
    """The alarms of a resumed run, from the lines of its files."""
    return Alarms({line["alarm"] for line in raised}, list(metrics[:FIRST_STEPS]))


def _means(steps: Sequence[Metrics]) -> Metrics:
    names = [name for name, value in steps[0].items() if isinstance(value, int | float)]
    return {name: sum(step.get(name, 0.0) for step in steps) / len(steps) for name in names}


def _clip(trend: Trend) -> str | None:
    """Whether the clip takes more of the divergence than a trust region should."""
    taken, turned = trend.now.get("clip_share", 0), trend.now.get("turned_tokens", 0)
    if taken <= CLIP_TAKES and turned <= CLIP_TURNS:
        return None
    return (
        f"at step {trend.step} the clip takes {taken:.0%} of the divergence, and its gradient with it, and turns the "
        f"gradient of {turned:.0%} of the tokens against the divergence; raise divergence.clip, or set it to null"
    )


def _entropy(trend: Trend) -> str | None:
    levels = trend.both("entropy")
    if "engine_gap" not in trend.now:  # no rollouts: SFT is meant to become certain of its references
        return None
    if levels is None or levels[0] >= ENTROPY_LEFT * levels[1]:
        return None
    return (
        f"at step {trend.step} the entropy has collapsed: {levels[0]:.3g} nats a token, from {levels[1]:.3g} in "
        f"the first {FIRST_STEPS} steps; rollouts are all alike now: lower optim.lr, or stop at an earlier checkpoint"
    )


def _length(trend: Trend) -> str | None:
    length, cut = trend.both("rollout_tokens"), trend.both("truncated")
    if length is None or cut is None or not (length[0] > LENGTH_GROWN * length[1] or cut[0] > cut[1] + TRUNCATED_MORE):
        return None
    return (
        f"at step {trend.step} rollouts run away: {length[0]:.0f} tokens and {cut[0]:.0%} cut at the limit, from "
        f"{length[1]:.0f} and {cut[1]:.0%} in the first {FIRST_STEPS} steps; look at repetition, and at the rollouts"
    )


def _cut(trend: Trend) -> str | None:
    if trend.now.get("truncated", 0) < 1:
        return None
    return (
        f"at step {trend.step} every rollout is cut at the token limit: none has an answer, and the student is not "
        "taught to stop; raise rollout.max_new_tokens, unless the recipe means to train on beginnings"
    )


def _loops(trend: Trend) -> str | None:
    share = trend.both("loops")
    if share is None or share[0] <= share[1] + LOOPS_MORE:
        return None
    return (
        f"at step {trend.step} {share[0]:.0%} of the rollouts end in a loop, from {share[1]:.1%} in the first "
        f"{FIRST_STEPS} steps; set divergence.clip to null, lower optim.lr, or stop at an earlier checkpoint"
    )


def _engine(trend: Trend) -> str | None:
    gap = trend.now.get("engine_gap", 0)
    if gap <= ENGINE_GAP or trend.now.get("staleness"):  # rollouts of older weights have a gap by design
        return None
    return (
        f"at step {trend.step} the engine is out of step with the policy: their log-probabilities of a token "
        f"differ by {gap:.2g} nats; it may serve other weights, another precision or another distribution"
    )


def _signal(trend: Trend) -> str | None:
    divergence = trend.both("divergence")
    if divergence is not None and divergence[0] < SIGNAL_LEFT * divergence[1]:
        return (
            f"at step {trend.step} the signal is gone: student and teacher differ by {divergence[0]:.2g} nats a "
            f"token, from {divergence[1]:.2g} in the first {FIRST_STEPS} steps; there is nothing left to learn from it"
        )
    if trend.now.get("flat_groups", 0) > FLAT_GROUPS:
        flat = f"{trend.now['flat_groups']:.0%} of the groups have rewards that are all equal"
        return f"at step {trend.step} the signal is gone: {flat}; take harder or easier problems"
    return None


def _foreign(trend: Trend) -> str | None:
    share = trend.now.get("foreign_answers", 0)
    if share <= FOREIGN_ANSWERS:
        return None
    return (
        f"at step {trend.step} the teacher is shown another answer than the gold of {share:.0%} of the problems: "
        "references may belong to other problems; look at the rows of data and at teacher.context"
    )


RULES: dict[str, Callable[[Trend], str | None]] = {
    "clip": _clip,
    "entropy": _entropy,
    "cut": _cut,
    "length": _length,
    "loops": _loops,
    "engine": _engine,
    "signal": _signal,
    "foreign": _foreign,
}
