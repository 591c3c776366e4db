"""The probe: measures before any training what the privileged context does to a model, and judges whether to train."""

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

INFORMATION = 0.5  # share of the divergence: from here on the divergence is mostly information
CLIP_TAKES = 0.5  # share of the divergence: a clip that removes more decides what is learnt
FAINT = 1e-4  # nats a token: below it student and teacher do not differ
Outcome = Literal["something to learn", "only style", "nothing to learn"]
Holds = Literal["good", "bad", "note"]


@dataclass(frozen=True)
class Sentence:
    """A sentence of the verdict, the rule behind it, and whether it speaks for training, against it, or neither."""

    text: str
    rule: str
    holds: Holds


@dataclass(frozen=True)
class Verdict:
    """The verdict on a privileged context, and whether training on it is advised."""

    outcome: Outcome
    advised: bool
    sentences: list[Sentence]


@dataclass(frozen=True)
class ProbeReport:
    """The results of a probe."""

    about: dict[str, Any]  # the model, data and settings, and the cost
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
    """Runs a probe: draws and grades rollouts, reads them under each context, and judges.

    Args:
        say: called with a sentence on each stage.
    """
    with Grader() as grader:
        say(f"drawing {len(experiment.problems) * experiment.samples} rollouts")
        plain = plain_answers(experiment, grader)
        prompts = {context.name: privileged_prompts(experiment, context, plain) for context in experiment.contexts}
        privileged = {}
        for name, context_prompts in prompts.items():
            say(f"drawing as the teacher with {name!r}")
            privileged[name] = scores(experiment, privileged_answers(experiment, grader, context_prompts))
    say("reading the rollouts")
    tokens = read_tokens(experiment, plain, prompts)
    right = torch.tensor([answer.right for answer in plain])
    plain_scores = scores(experiment, plain)
    findings = [context_finding(name, tokens, right, plain_scores, privileged[name]) for name in prompts]
    measured = information(tokens)
    score = average(list(plain_scores.values()))
    verdict = judge(findings, score.average, measured, _thinking_states(experiment))
    return ProbeReport(_about(experiment), score, findings, measured, entropy_finding(tokens, right), verdict)


def _thinking_states(experiment: Experiment) -> Sequence[str]:
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


def judge(findings: Sequence[ContextFinding], plain: float, measured: Information, states: Sequence[str]) -> Verdict:
    """Judges a probe.

    Args:
        findings: of all contexts; REFERENCE and OTHER are among them.
        plain: the student's score without a context.
        measured: the share of the divergence that is information.
        states: the thinking states in which the student's turn and the teacher's start.
    """
    by_name = {finding.name: finding for finding in findings}
    reference, other = by_name[REFERENCE], by_name[OTHER]
    gained = _gain(reference, plain)
    informed = _information(reference, measured)
    same_state = _thinking(states)
    outcome: Outcome = "something to learn"
    if gained.holds == "bad":
        outcome = "only style" if informed.holds == "bad" else "nothing to learn"
    advised = all(sentence.holds != "bad" for sentence in (gained, informed, same_state))
    sentences = [gained, informed, _control(reference, other), same_state, _clip(reference)]
    return Verdict(outcome, advised, [*sentences, _advice(outcome, advised)])


def _gain(reference: ContextFinding, plain: float) -> Sentence:
    rule = "there is something to learn if the 95% interval of privileged minus plain, over problems, lies above 0"
    gain = reference.gain
    assert gain is not None
    low, high = gain.low or 0.0, gain.high or 0.0
    scores = f"{percent(plain)}% plain and {percent(reference.score or 0)}% with the reference"
    difference = f"{points(gain.difference)} points ({interval(low, high)})"
    if low > 0:
        return Sentence(f"The reference helps: {scores}, {difference}.", rule, "good")
    return Sentence(f"The reference has not been shown to help: {scores}, {difference}.", rule, "bad")


def _information(reference: ContextFinding, measured: Information) -> Sentence:
    rule = (
        f"it is mostly information if at least {INFORMATION:.0%} of the divergence is not explained by a teacher "
        "with another problem's reference"
    )
    if reference.divergence <= FAINT:
        return Sentence(
            f"Student and teacher hardly differ: {reference.divergence:.2g} nats a token.",
            f"no signal below {FAINT:g} nats a token",
            "note",
        )
    share = f"{measured.share:.0%} ({measured.low:.0%} to {measured.high:.0%})"
    text = f"{share} of the divergence is information, and {1 - measured.share:.0%} is style."
    return Sentence(text, rule, "good" if measured.share >= INFORMATION else "bad")


def _control(reference: ContextFinding, other: ContextFinding) -> Sentence:
    rule = "a control: another problem's reference has the same style and no information"
    text = (
        f"With another problem's reference the teacher solves {percent(other.score or 0)}%, and differs from the "
        f"student by {other.divergence:.3g} nats a token; with the right reference by {reference.divergence:.3g}."
    )
    return Sentence(text, rule, "note")


def _thinking(states: Sequence[str]) -> Sentence:
    rule = "both turns must start in the same thinking state; else the teacher teaches to think or not to think"
    student, teacher = states
    if student == teacher:
        return Sentence(f"Student and teacher both start {student}.", rule, "good")
    text = f"The student starts {student}, the teacher starts {teacher}: set prompt.teacher_thinking."
    return Sentence(text, rule, "bad")


def _clip(reference: ContextFinding) -> Sentence:
    rule = f"a clip that removes more than {CLIP_TAKES:.0%} of the divergence decides what is learnt"
    text = f"The clip removes {reference.clip_share:.0%} of the divergence, together with its gradient."
    if reference.clip_share > CLIP_TAKES:
        text += " Raise divergence.clip, or set it to null."
    return Sentence(text, rule, "note")


def _advice(outcome: Outcome, advised: bool) -> Sentence:
    rule = "training is advised if none of the rules above speaks against it"
    if advised:
        return Sentence("Training on this context is advised.", rule, "good")
    why = {
        "nothing to learn": "this probe finds nothing to learn from it",
        "only style": "it would teach the style of the references",
        "something to learn": "first fix what the sentences above name",
    }
    return Sentence(f"Training on this context is not advised: {why[outcome]}.", rule, "bad")
