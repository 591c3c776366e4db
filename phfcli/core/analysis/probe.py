"""The probe: measures before any training what the privileged context does to a model.

It gives readings and no verdict: no figure of an untrained model has been shown to tell what training gives (the
attempt is in docs/probe.md).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from phfcli.core.analysis.probe_answers import (
    OTHER,
    REFERENCE,
    Answer,
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
from phfcli.core.config import TrainConfig
from phfcli.core.errors import interval, percent, points
from phfcli.core.evaluation.scores import Average, average
from phfcli.core.grading import Grader
from phfcli.core.losses.positions import ENTROPY_EDGES
from phfcli.core.models.prompts import thinking_state

INFORMATION = 0.5  # share of the divergence: from here on the divergence is mostly information
CLIP_TAKES = 0.5  # share of the divergence: a clip that removes more decides what is learnt
_EVERY_S = 10.0
FAINT = 1e-4  # nats a token: below it student and teacher do not differ
_FEWEST = 6  # rollouts: with fewer, an interval over them says nothing
Holds = Literal["good", "bad", "note", "cannot tell"]


@dataclass(frozen=True)
class Sentence:
    """A reading, the rule behind it, and whether it speaks for training, against it, or neither."""

    text: str
    rule: str
    holds: Holds


@dataclass(frozen=True)
class ProbeReport:
    """The results of a probe."""

    about: dict[str, Any]  # the model, data and settings, and the cost
    plain: Average
    contexts: list[ContextFinding]
    information: Information
    entropy: EntropyFinding
    readings: list[Sentence]

    def as_json(self) -> dict[str, Any]:
        return {
            "readings": [asdict(sentence) for sentence in self.readings],
            "information": asdict(self.information),
            "contexts": {"plain": asdict(self.plain)} | {finding.name: asdict(finding) for finding in self.contexts},
            "entropy": asdict(self.entropy),
            "about": self.about,
        }


def run_probe(experiment: Experiment, say: Callable[[str], None]) -> ProbeReport:
    """Runs a probe: draws and grades rollouts, and reads them under each context.

    Args:
        say: called with a sentence on each stage, and now and then on the time that is left.
    """
    clock = Clock(experiment.cost["completions"], say)
    with Grader() as grader:
        say(f"drawing {len(experiment.problems) * experiment.samples} rollouts")
        plain = plain_answers(experiment, grader, clock.tick)
        prompts = {context.name: privileged_prompts(experiment, context, plain) for context in experiment.contexts}
        privileged = {}
        for name, context_prompts in prompts.items():
            say(f"drawing as the teacher with {name!r}")
            privileged[name] = scores(experiment, privileged_answers(experiment, grader, context_prompts, clock.tick))
    say("reading the rollouts")
    tokens = read_tokens(experiment, plain, prompts)
    right = torch.tensor([answer.right for answer in plain])
    plain_scores = scores(experiment, plain)
    findings = [context_finding(name, tokens, right, plain_scores, privileged[name]) for name in prompts]
    measured = information(tokens)
    score = average(list(plain_scores.values()))
    told = list(readings(experiment, findings, plain, score.average, measured))
    return ProbeReport(_about(experiment), score, findings, measured, entropy_finding(tokens, right), told)


class Clock:
    """Says every ten seconds how many completions are drawn, and how long the others take at this pace, at most."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total, self.say, self.done = total, say, 0
        self.started = self.said = time.monotonic()

    def tick(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.said >= _EVERY_S and self.done < self.total:
            self.said = now
            left = (now - self.started) / self.done * (self.total - self.done)
            self.say(f"{self.done:,} of {self.total:,} completions drawn, at most {left / 60:.1f} minutes left")


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


def readings(
    experiment: Experiment,
    findings: Sequence[ContextFinding],
    plain: Sequence[Answer],
    score: float,
    measured: Information,
) -> Iterator[Sentence]:
    """The readings of the settings at hand: their context, their divergence and clip.

    Args:
        findings: of all contexts; that of the settings, REFERENCE and OTHER are among them.
        plain: the student's rollouts, and their score.
        measured: the share of the reference's divergence that is information.
    """
    by_name = {finding.name: finding for finding in findings}
    shown = by_name[experiment.config.teacher.context]
    yield _settings(experiment.config)
    yield _gain(shown, plain, score)
    if shown.name == REFERENCE:
        yield _information(shown, measured)
    yield _control(shown, by_name[OTHER])
    yield _thinking(_thinking_states(experiment))
    yield _clip(shown, experiment.config)


def _settings(config: TrainConfig) -> Sentence:
    """What the readings are of, and what of the settings they leave out."""
    divergence = config.divergence
    clip = "no clip" if divergence.clip is None else f"a clip of {divergence.clip:g} of each {divergence.clip_mode}"
    left = [] if divergence.gate is None else ["divergence.gate"]
    left += ["the objective's own loss"] if config.objective not in ("opsd", "phf") else []
    text = f"Readings of teacher.context {config.teacher.context!r}, divergence {divergence.kind}, {clip}."
    text += f" Not in them: {' and '.join(left)}." if left else ""
    return Sentence(text, "the readings are of the settings that training would have; they promise no gain", "note")


def _gain(shown: ContextFinding, plain: Sequence[Answer], score: float) -> Sentence:
    rule = "the context helps if the 95% interval of privileged minus plain, over problems, lies above 0"
    gain = shown.gain
    cut = sum(not answer.completion.whole for answer in plain)
    if gain is None:
        return Sentence(f"Cannot tell: no rollout has the context {shown.name!r}.", rule, "cannot tell")
    if cut == len(plain):
        words = "Cannot tell: every rollout was cut; raise rollout.max_new_tokens."
        return Sentence(words, rule, "cannot tell")
    if score == 0 and not shown.score:
        words = f"Cannot tell: none of {len(plain)} rollouts is right, and none of those with {shown.name!r}."
        return Sentence(words, rule, "cannot tell")
    scores = f"{percent(score)}% plain and {percent(shown.score or 0)}% with {shown.name!r}"
    difference = f"{scores}, {points(gain.difference)} points ({interval(gain.low, gain.high)})"
    if gain.low is not None and gain.low > 0:
        return Sentence(f"The context helps: {difference}.", rule, "good")
    if gain.bound and gain.high is not None and gain.high > 0:
        return Sentence(f"Cannot tell, too few problems differ: {difference}.", rule, "cannot tell")
    return Sentence(f"The context has not been shown to help: {difference}.", rule, "bad")


def _information(reference: ContextFinding, measured: Information) -> Sentence:
    rule = (
        f"it is mostly information if at least {INFORMATION:.0%} of the divergence is not explained by a teacher "
        "with another problem's reference"
    )
    if reference.rollouts < _FEWEST:
        return Sentence(f"Cannot tell information from style with {reference.rollouts} rollouts.", rule, "cannot tell")
    if reference.divergence <= FAINT:
        return Sentence(
            f"Student and teacher hardly differ: {reference.divergence:.2g} nats a token.",
            f"no signal below {FAINT:g} nats a token",
            "note",
        )
    share = f"{measured.share:.0%} ({measured.low:.0%} to {measured.high:.0%})"
    text = f"{share} of the divergence is information, and {1 - measured.share:.0%} is style."
    return Sentence(text, rule, "good" if measured.share >= INFORMATION else "bad")


def _control(shown: ContextFinding, other: ContextFinding) -> Sentence:
    rule = "a control: another problem's reference has the same style and no information"
    text = (
        f"With another problem's reference the teacher solves {percent(other.score or 0)}%, and differs from the "
        f"student by {other.divergence:.3g} nats a token; with {shown.name!r} by {shown.divergence:.3g}."
    )
    return Sentence(text, rule, "note")


def _thinking(states: Sequence[str]) -> Sentence:
    rule = "both turns must start in the same thinking state; else the teacher teaches to think or not to think"
    student, teacher = states
    if student == teacher:
        return Sentence(f"Student and teacher both start {student}.", rule, "good")
    text = f"The student starts {student}, the teacher starts {teacher}: set prompt.teacher_thinking."
    return Sentence(text, rule, "bad")


def _clip(shown: ContextFinding, config: TrainConfig) -> Sentence:
    rule = f"a clip that removes more than {CLIP_TAKES:.0%} of the divergence decides what is learnt"
    if config.divergence.clip is None:
        return Sentence("There is no clip.", rule, "note")
    text = f"The clip removes {shown.clip_share:.0%} of the divergence, together with its gradient."
    if shown.clip_share > CLIP_TAKES:
        return Sentence(f"{text} Raise divergence.clip, or set it to null.", rule, "bad")
    return Sentence(text, rule, "note")
