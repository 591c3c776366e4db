"""The verdict on a probe: sentences in plain words, each by a rule that is told with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phfcli.core.analysis.probe.context_findings import ContextFinding, Information
from phfcli.core.analysis.probe.experiment import OTHER, REFERENCE

INFORMATION = 0.5  # of the divergence, from which on it is mostly information
CLIP_TAKES = 0.5  # of the divergence, from which on the clip decides what is learnt
FAINT = 1e-4  # nats a token, below which readers do not differ

Outcome = Literal["something to learn", "only style", "nothing to learn"]
Holds = Literal["good", "bad", "note"]


@dataclass(frozen=True)
class Sentence:
    """A finding in words, the rule that it follows, and what it says about training."""

    text: str
    rule: str
    holds: Holds


@dataclass(frozen=True)
class Verdict:
    """What the privileged context is worth, and whether training on it is advised."""

    outcome: Outcome
    advised: bool
    sentences: list[Sentence]


def judge(findings: Sequence[ContextFinding], plain: float, told: Information, states: Sequence[str]) -> Verdict:
    """The verdict.

    Args:
        plain: the student's own score.
        states: in which thinking state the student's turn and the teacher's start.
    """
    by_name = {finding.name: finding for finding in findings}
    reference, other = by_name[REFERENCE], by_name[OTHER]
    gained = _gain(reference, plain)
    informed = _information(reference, told)
    same_state = _thinking(states)
    outcome: Outcome = "something to learn"
    if gained.holds == "bad":
        outcome = "only style" if informed.holds == "bad" else "nothing to learn"
    advised = all(sentence.holds != "bad" for sentence in (gained, informed, same_state))
    sentences = [gained, informed, _control(reference, other), same_state, _clip(reference)]
    return Verdict(outcome, advised, [*sentences, _advice(outcome, advised)])


def _gain(reference: ContextFinding, plain: float) -> Sentence:
    rule = "something is there to learn if the 95% interval of privileged minus plain, by problem, lies above 0"
    gain = reference.gain
    assert gain is not None
    low, high = gain.low or 0.0, gain.high or 0.0
    scores = f"{_percent(plain)} plain and {_percent(reference.score or 0)} with the reference"
    difference = f"{100 * gain.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    if low > 0:
        return Sentence(f"The reference helps: {scores}, {difference}.", rule, "good")
    return Sentence(f"The reference has not been shown to help: {scores}, {difference}.", rule, "bad")


def _information(reference: ContextFinding, told: Information) -> Sentence:
    rule = (
        f"it is mostly information if at least {INFORMATION:.0%} of the divergence is not explained by a teacher "
        "that is shown another problem's reference"
    )
    if reference.divergence <= FAINT:
        return Sentence(
            f"Student and teacher hardly differ: {reference.divergence:.2g} nats a token.",
            f"no signal below {FAINT:g} nats a token",
            "note",
        )
    share = f"{told.share:.0%} ({told.low:.0%} to {told.high:.0%})"
    text = f"Of the divergence {share} is information, and {1 - told.share:.0%} is style."
    return Sentence(text, rule, "good" if told.share >= INFORMATION else "bad")


def _control(reference: ContextFinding, other: ContextFinding) -> Sentence:
    rule = "a control: another problem's reference has the same style and nothing to know"
    text = (
        f"With another problem's reference the teacher solves {_percent(other.score or 0)}, and differs from the "
        f"student by {other.divergence:.3g} nats a token; with its own by {reference.divergence:.3g}."
    )
    return Sentence(text, rule, "note")


def _thinking(states: Sequence[str]) -> Sentence:
    rule = "both turns must start in the same thinking state, or the teacher teaches to think, or not to"
    student, teacher = states
    if student == teacher:
        return Sentence(f"Both readers start {student}.", rule, "good")
    text = f"The student starts {student}, the teacher {teacher}: set prompt.teacher_thinking."
    return Sentence(text, rule, "bad")


def _clip(reference: ContextFinding) -> Sentence:
    rule = f"a clip that takes more than {CLIP_TAKES:.0%} of the divergence decides what is learnt"
    text = f"The clip takes {reference.clip_share:.0%} of the divergence, and its gradient with it."
    if reference.clip_share > CLIP_TAKES:
        text += " Raise divergence.clip, or set it to null."
    return Sentence(text, rule, "note")


def _advice(outcome: Outcome, advised: bool) -> Sentence:
    rule = "training is advised if none of the rules above speaks against it"
    if advised:
        return Sentence("Training on this context is advised.", rule, "good")
    why = {
        "nothing to learn": "there is nothing to learn from it that this probe can see",
        "only style": "it would teach the style of the references",
        "something to learn": "mend what is told above first",
    }
    return Sentence(f"Training on this context is not advised: {why[outcome]}.", rule, "bad")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
