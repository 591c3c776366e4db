"""The probe: what the privileged context does to a model, before any training; and the verdict on it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from phfcli.core.analysis.probe_answers import (
    OTHER,
    REFERENCE,
    Experiment,
    plain_answers,
    privileged_answers,
    privileged_prompts,
    scores,
)
from phfcli.core.analysis.probe_tokens import (
    FIRST_TOKENS,
    FORKS,
    ContextFinding,
    EntropyFinding,
    Information,
    context_finding,
    entropy_finding,
    information,
    read_tokens,
)
from phfcli.core.errors import interval, percent, points
from phfcli.core.evaluation.scores import Average, average
from phfcli.core.grading import Grader
from phfcli.core.losses.positions import ENTROPY_EDGES
from phfcli.core.models.prompts import thinking_state

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
    scores = f"{percent(plain)}% plain and {percent(reference.score or 0)}% with the reference"
    difference = f"{points(gain.difference)} points ({interval(low, high)})"
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
        f"With another problem's reference the teacher solves {percent(other.score or 0)}%, and differs from the "
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


@dataclass(frozen=True)
class ProbeReport:
    """What a probe has found."""

    about: dict[str, Any]  # what was looked at, and what it took
    plain: Average
    contexts: list[ContextFinding]
    information: Information
    entropy: EntropyFinding
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": asdict(self.verdict) | {"information": asdict(self.information)},
            "contexts": {"plain": asdict(self.plain)} | {finding.name: asdict(finding) for finding in self.contexts},
            "entropy": asdict(self.entropy),
            "about": self.about,
        }


def run_probe(experiment: Experiment, say: Callable[[str], None]) -> ProbeReport:
    """Draws, reads and judges; `say` is told what it is at."""
    with Grader() as grader:
        say(f"drawing {len(experiment.problems) * experiment.samples} rollouts")
        plain = plain_answers(experiment, grader)
        prompts = {context.name: privileged_prompts(experiment, context, plain) for context in experiment.contexts}
        privileged = {}
        for name, own in prompts.items():
            say(f"drawing as the teacher with {name!r}")
            privileged[name] = scores(experiment, privileged_answers(experiment, grader, own))
    say("reading the rollouts")
    readings = read_tokens(experiment, plain, prompts)
    right = torch.tensor([answer.right for answer in plain])
    own_scores = scores(experiment, plain)
    findings = [context_finding(name, readings, right, own_scores, privileged[name]) for name in prompts]
    told = information(readings)
    score = average(list(own_scores.values()))
    verdict = judge(findings, score.average, told, _states(experiment))
    return ProbeReport(_about(experiment), score, findings, told, entropy_finding(readings, right), verdict)


def _states(experiment: Experiment) -> Sequence[str]:
    prompts = experiment.prompts
    return [thinking_state(prompts.student_text("")), thinking_state(prompts.teacher_text("", ""))]


def _about(experiment: Experiment) -> dict[str, Any]:
    config = experiment.config
    return {
        "target": experiment.target,
        "model": config.model,
        "data": config.data,
        "problems": len(experiment.problems),
        "samples": experiment.samples,
        "temperature": experiment.temperature,
        "divergence": config.divergence.model_dump(),
        "cost": experiment.cost,
        "entropy_edges": list(ENTROPY_EDGES),
        "first_tokens": FIRST_TOKENS,
        "forks": FORKS,
    }
