"""Alarms: what somebody who watches a run should act on, each raised once and kept in RUN/alarms.jsonl.

Some are judged against the run's own first steps, so a model that is sure or brief from the start raises none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FILE = "alarms.jsonl"
FIRST_STEPS = 5  # whose means are the run's own level

CLIP_TAKES = 0.5  # of the divergence
CLIP_TURNS = 0.05  # of the tokens, against the divergence
ENTROPY_LEFT = 0.05  # of the first steps' entropy
LENGTH_GROWN = 2.0  # times the first steps' length
TRUNCATED_MORE = 0.3  # above the first steps' share
ENGINE_GAP = 0.1  # nats a token
SIGNAL_LEFT = 0.02  # of the first steps' divergence
FLAT_GROUPS = 0.95  # of the groups, whose rewards are all equal
FOREIGN_ANSWERS = 0.5  # of the problems

Metrics = Mapping[str, Any]


class Judged(NamedTuple):
    """A step's metrics, and the means of the run's first steps; a level is None before these are over."""

    now: Metrics
    first: Metrics

    @property
    def step(self) -> int:
        return int(self.now["step"])

    def both(self, name: str) -> tuple[float, float] | None:
        return (self.now[name], self.first[name]) if name in self.now and name in self.first else None


@dataclass
class Alarms:
    """What a run has raised so far, and its first steps."""

    raised: set[str] = field(default_factory=set)
    first: list[Metrics] = field(default_factory=list)

    def look(self, metrics: Metrics) -> list[dict[str, Any]]:
        """The alarms that this step raises for the first time: their step, name and sentence."""
        found = []
        judged = Judged(metrics, _means(self.first) if len(self.first) >= FIRST_STEPS else {})
        for name, rule in RULES.items():
            sentence = None if name in self.raised else rule(judged)
            if sentence is not None:
                self.raised.add(name)
                found.append({"step": metrics["step"], "alarm": name, "sentence": sentence})
        if len(self.first) < FIRST_STEPS:
            self.first.append(metrics)
        return found


def resumed_alarms(metrics: Sequence[Metrics], raised: Sequence[Mapping[str, Any]]) -> Alarms:
    """The alarms of a run that goes on, from the lines that it has kept."""
    return Alarms({line["alarm"] for line in raised}, list(metrics[:FIRST_STEPS]))


def _means(steps: Sequence[Metrics]) -> Metrics:
    names = [name for name, value in steps[0].items() if isinstance(value, int | float)]
    return {name: sum(step.get(name, 0.0) for step in steps) / len(steps) for name in names}


def _clip(judged: Judged) -> str | None:
    """Where a clip does more than a trust region does."""
    taken, turned = judged.now.get("clip_share", 0), judged.now.get("turned_tokens", 0)
    if taken <= CLIP_TAKES and turned <= CLIP_TURNS:
        return None
    return (
        f"at step {judged.step} the clip takes {taken:.0%} of the divergence, and its gradient with it, and turns the "
        f"gradient of {turned:.0%} of the tokens against the divergence; raise divergence.clip, or set it to null"
    )


def _entropy(judged: Judged) -> str | None:
    levels = judged.both("entropy")
    if "engine_gap" not in judged.now:  # there are no rollouts: to become sure of references is what SFT is for
        return None
    if levels is None or levels[0] >= ENTROPY_LEFT * levels[1]:
        return None
    return (
        f"at step {judged.step} the entropy has collapsed: {levels[0]:.3g} nats a token, from {levels[1]:.3g} in "
        f"the first {FIRST_STEPS} steps; rollouts are all alike now: lower optim.lr, or stop at an earlier checkpoint"
    )


def _length(judged: Judged) -> str | None:
    length, cut = judged.both("rollout_tokens"), judged.both("truncated")
    if length is None or cut is None or not (length[0] > LENGTH_GROWN * length[1] or cut[0] > cut[1] + TRUNCATED_MORE):
        return None
    return (
        f"at step {judged.step} rollouts run away: {length[0]:.0f} tokens and {cut[0]:.0%} cut at the limit, from "
        f"{length[1]:.0f} and {cut[1]:.0%} in the first {FIRST_STEPS} steps; look at repetition, and at the rollouts"
    )


def _engine(judged: Judged) -> str | None:
    gap = judged.now.get("engine_gap", 0)
    if gap <= ENGINE_GAP or judged.now.get("staleness"):  # the gap of older weights is no fault
        return None
    return (
        f"at step {judged.step} the engine is out of step with the policy: their log-probabilities of a token "
        f"differ by {gap:.2g} nats; it may serve other weights, another precision or another distribution"
    )


def _signal(judged: Judged) -> str | None:
    divergence = judged.both("divergence")
    if divergence is not None and divergence[0] < SIGNAL_LEFT * divergence[1]:
        return (
            f"at step {judged.step} the signal is gone: student and teacher differ by {divergence[0]:.2g} nats a "
            f"token, from {divergence[1]:.2g} in the first {FIRST_STEPS} steps; there is nothing left to learn from it"
        )
    if judged.now.get("flat_groups", 0) > FLAT_GROUPS:
        flat = f"{judged.now['flat_groups']:.0%} of the groups have rewards that are all equal"
        return f"at step {judged.step} the signal is gone: {flat}; take harder or easier problems"
    return None


def _foreign(judged: Judged) -> str | None:
    share = judged.now.get("foreign_answers", 0)
    if share <= FOREIGN_ANSWERS:
        return None
    return (
        f"at step {judged.step} the teacher is shown another answer than the gold of {share:.0%} of the problems: "
        "references may belong to other problems; look at the rows of data and at teacher.context"
    )


RULES: dict[str, Callable[[Judged], str | None]] = {
    "clip": _clip,
    "entropy": _entropy,
    "length": _length,
    "engine": _engine,
    "signal": _signal,
    "foreign": _foreign,
}
