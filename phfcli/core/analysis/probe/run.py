"""Runs a probe from its first rollout to its verdict."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from phfcli.core.analysis.probe.answers import plain_answers, privileged_answers, privileged_prompts, scores
from phfcli.core.analysis.probe.context_findings import (
    FIRST_TOKENS,
    FORKS,
    ContextFinding,
    EntropyFinding,
    Information,
    context_finding,
    entropy_finding,
    information,
)
from phfcli.core.analysis.probe.experiment import Experiment
from phfcli.core.analysis.probe.token_readings import read_tokens
from phfcli.core.analysis.probe.verdict import Verdict, judge
from phfcli.core.evaluation.average import Average, average
from phfcli.core.grading import Grader
from phfcli.core.losses.token_parts import ENTROPY_EDGES
from phfcli.core.models.chat_template import thinking_state


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
