"""The samples of a step: problems, completions, rewards, and what the teacher is shown."""

import random
from collections.abc import Sequence

from phfcli.core.grading import Grading, Status, last_box
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.passes import Sample
from phfcli.core.rollouts.single import is_url
from phfcli.core.runs.contexts import golds_of
from phfcli.core.seeds import derive_seed
from phfcli.core.training.metrics import Metrics, distinct_answers, repetition
from phfcli.core.training.parts import TrainingParts
from phfcli.core.types import Completion, Problem, Request, Sampling


def rewards_of(
    grader: Grading, description: ModelDescription, problems: Sequence[Problem], completions: Sequence[Completion]
) -> list[float]:
    """1 for a whole completion whose answer is the problem's, else 0, by the grader of evaluation."""
    texts = [description.text(completion.ids) for completion in completions]
    grades = grader.grade([(golds_of(problem), text) for problem, text in zip(problems, texts, strict=True)])
    right = [grade.status == Status.correct for grade in grades]
    return [float(ok and completion.whole) for ok, completion in zip(right, completions, strict=True)]


class Drawing(TrainingParts):
    """Makes the samples of a step."""

    def problems(self, step: int) -> list[Problem]:
        """The problems of a step, of all ranks, each as often as the objective wants a completion of it."""
        return [problem for problem in self.curriculum.batch(step) for _ in range(self.objective.needs.group_size)]

    def rollout(self, problems: Sequence[Problem], step: int, purpose: str = "rollout") -> list[Completion]:
        """This rank's share of the completions, in order: the student's own, or references in their place.

        Each purpose has random numbers of its own.
        """
        own = self.ranks.share(len(problems))
        read = {index: self._reference(problems[index]) for index in own if self._by_chance(step, index)}
        drawn = [index for index in own if index not in read]
        if drawn:
            requests = self._requests(problems, drawn, step, purpose)
            read |= dict(zip(drawn, self._draw(requests, purpose), strict=True))
        return [read[index] for index in own]

    def draw_ahead(self, step: int) -> None:
        """Begins on the rollouts of the step after this one, under the present weights, if that is asked for."""
        if not self.config.rollout.ahead or step >= self.config.steps:
            return
        problems = self.problems(step + 1)
        drawn = [index for index in self.ranks.share(len(problems)) if not self._by_chance(step + 1, index)]
        if drawn:
            self.engine.update(self.model)
            requests = self._requests(problems, drawn, step + 1, "rollout")
            self.ahead.start(requests, self._sample, beside=is_url(self.config.rollout.engine))

    def _requests(self, problems: Sequence[Problem], indices: Sequence[int], step: int, purpose: str) -> list[Request]:
        """What is asked of the engine for the problems at some indices of a step, in order."""
        return [
            Request(
                tuple(self.prompts.student(problems[index].problem)),
                derive_seed(self.config.seed, purpose, step, index),
            )
            for index in indices
        ]

    def _draw(self, requests: Sequence[Request], purpose: str) -> list[Completion]:
        """The student's completions, in order: those drawn ahead, or fresh ones under the present weights."""
        if purpose == "rollout" and (ahead := self.ahead.take(requests)) is not None:
            return ahead
        self.engine.update(self.model)
        return self._sample(requests)

    def _sample(self, requests: Sequence[Request]) -> list[Completion]:
        drawn = sorted(self.engine.sample(requests, self.sampling), key=lambda pair: pair[0])
        return [completion for _, completion in drawn]

    @property
    def sampling(self) -> Sampling:
        return self.config.rollout.sampling

    def shown(self, problems: Sequence[Problem], step: int) -> list[str | None]:
        """What the teacher is shown of this rank's problems; None where it is a rollout, and the one drawn is wrong."""
        own = [problems[index] for index in self.ranks.share(len(problems))]
        if not self.objective.needs.privileged:
            return [None] * len(own)
        if not self.curriculum.context.drawn:
            return [self.curriculum.context.text(problem) for problem in own]
        siblings = self.rollout(problems, step, "sibling")
        right = self._rewards(own, siblings)
        texts = [self.model.description.text(completion.ids) for completion in siblings]
        return [text if reward else None for text, reward in zip(texts, right, strict=True)]

    def make_samples(
        self, problems: Sequence[Problem], completions: Sequence[Completion], shown: Sequence[str | None]
    ) -> list[Sample]:
        """This rank's completions after the student's prompt and, where the objective asks, after the teacher's.

        Where the teacher is shown nothing it reads the student's prompt.
        """
        own, size = self.ranks.share(len(problems)), self.objective.needs.group_size
        rewards = [0.0] * len(problems)
        if self.objective.needs.reward:  # a group may be spread over ranks
            rewards = self.ranks.gather(self._rewards([problems[index] for index in own], completions))
        samples = [
            Sample(
                student_prompt=self.prompts.student(problems[index].problem),
                teacher_prompt=self._teacher_prompt(problems[index], context),
                completion=completion.ids,
                logprobs=completion.logprobs,
                reward=rewards[index],
                group=rewards[index - index % size :][:size],
            )
            for index, completion, context in zip(own, completions, shown, strict=True)
        ]
        return [self.teacher.prepare(sample, problems[index]) for index, sample in zip(own, samples, strict=True)]

    def _rewards(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[float]:
        return rewards_of(self.grader, self.model.description, problems, completions)

    def _by_chance(self, step: int, index: int) -> bool:
        """Whether a sample is among the share that has the reference in the place of a rollout."""
        share = 1.0 if self.objective.needs.offline else self.config.rollout.references
        return random.Random(derive_seed(self.config.seed, "reference", step, index)).random() < share

    def _reference(self, problem: Problem) -> Completion:
        assert problem.solution is not None
        return Completion(tuple(self.prompts.target(problem.problem, problem.solution)), (), finish="stop")

    def _teacher_prompt(self, problem: Problem, shown: str | None) -> list[int] | None:
        if not self.objective.needs.teacher:
            return None
        return self.prompts.student(problem.problem) if shown is None else self.prompts.teacher(problem.problem, shown)


def rollout_metrics(run: TrainingParts, completions: Sequence[Completion], samples: Sequence[Sample]) -> Metrics:
    """Means over the completions of all ranks."""
    sums = {
        "rollout_tokens": sum(len(c.ids) for c in completions),
        "truncated": sum(not c.whole for c in completions),
        "repetition": sum(repetition(c.ids) for c in completions),
        **({"reward": sum(s.reward for s in samples)} if run.objective.needs.reward else {}),
        "count": len(completions),
    }
    totals = run.ranks.total(sums)
    count = totals.pop("count")
    metrics = {name: total / count for name, total in totals.items()}
    if (size := run.objective.needs.group_size) > 1:
        answers = [last_box(run.model.description.text(c.ids)) for c in completions]
        metrics["distinct_answers"] = distinct_answers(run.ranks.gather(answers), size)
    return metrics


def context_metrics(run: TrainingParts, problems: Sequence[Problem], shown: Sequence[str | None]) -> Metrics:
    """The share of problems whose teacher is shown another answer than the gold; of drawn contexts those there."""
    if not run.objective.needs.privileged:
        return {}
    own = [problems[index] for index in run.ranks.share(len(problems))]
    pairs = [(p.golds, text) for p, text in zip(own, shown, strict=True) if p.golds and text and last_box(text)]
    wrong = sum(grade.status == Status.wrong for grade in run.grader.grade(pairs))
    there = sum(text is not None for text in shown)
    totals = run.ranks.total({"wrong": wrong, "pairs": len(pairs), "there": there, "all": len(shown)})
    metrics = {"foreign_answers": totals["wrong"] / totals["pairs"]} if totals["pairs"] else {}
    return metrics | ({"siblings": totals["there"] / totals["all"]} if run.curriculum.context.drawn else {})
