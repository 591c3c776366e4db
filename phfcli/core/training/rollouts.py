"""The rollouts of a step: its problems, the student's completions, and what the teacher is shown of each problem."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.grading import Grading, Status, last_box
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import Prompts
from phfcli.core.objectives.contract import Needs
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.rollouts.single import is_url
from phfcli.core.runs.contexts import golds_of
from phfcli.core.runs.problems import Curriculum
from phfcli.core.seeds import derive_seed
from phfcli.core.training.metrics import Metrics, distinct_answers, repetition
from phfcli.core.training.ranks import Ranks
from phfcli.core.types import Completion, Problem, Request


@dataclass(frozen=True)
class StepRollouts:
    """What a step is made on. `problems` are those of all ranks; the rest is this rank's share, in order."""

    problems: Sequence[Problem]  # each as often as the objective wants a completion of it
    completions: Sequence[Completion]
    contexts: Sequence[str | None]  # what the teacher is shown; None is nothing: it reads the student's prompt
    samples: Sequence[Sample]


@dataclass
class RolloutSource:
    """Draws the rollouts of each step, and makes the samples that the passes read."""

    config: TrainConfig
    needs: Needs
    model: LanguageModel  # the student, whose weights the engine draws with
    teacher: Teacher
    engine: TrainingEngine
    prompts: Prompts
    curriculum: Curriculum
    grader: Grading
    ranks: Ranks
    ahead: "Ahead" = field(default_factory=lambda: Ahead())

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Within it rollouts can be drawn and graded; after it the engine and the grader's workers are gone."""
        with self.grader, closing(self.engine):
            yield

    def samples(self, step: int) -> StepRollouts:
        """The rollouts of a step. Everything random in them comes from the run's seed and the step."""
        problems = self._problems(step)  # (x, r)
        completions = self._completions(problems, step, "rollout")  # y ~ p_S(. | x), eq. 1
        contexts = self._contexts(problems, step)
        self._draw_ahead(step)
        return StepRollouts(problems, completions, contexts, self._samples(problems, completions, contexts))

    def metrics(self, rollouts: StepRollouts) -> Metrics:
        """What a step's metrics say of its rollouts, over all ranks."""
        staleness = {"staleness": self.ahead.staleness} if self.config.rollout.ahead else {}
        return self._completion_metrics(rollouts) | self._context_metrics(rollouts) | staleness

    def _problems(self, step: int) -> list[Problem]:
        """The problems of a step, of all ranks, each as often as the objective wants a completion of it."""
        return [problem for problem in self.curriculum.batch(step) for _ in range(self.needs.group_size)]

    def _completions(self, problems: Sequence[Problem], step: int, purpose: str) -> list[Completion]:
        """This rank's share of the completions, in order: the student's own, or references in their place.

        Each purpose has random numbers of its own.
        """
        share = self.ranks.share(len(problems))
        completions = {i: self._reference(problems[i]) for i in share if self._reads_reference(step, i)}
        drawn = [i for i in share if i not in completions]
        if drawn:
            requests = self._requests(problems, drawn, step, purpose)
            completions |= dict(zip(drawn, self._draw(requests, purpose), strict=True))
        return [completions[i] for i in share]

    def _draw(self, requests: Sequence[Request], purpose: str) -> list[Completion]:
        """The student's completions, in order: those drawn ahead, or fresh ones under the present weights."""
        if purpose == "rollout" and (ahead := self.ahead.take(requests)) is not None:
            return ahead
        self.engine.update(self.model)
        return self._sample(requests)

    def _draw_ahead(self, step: int) -> None:
        """Begins on the rollouts of the step after this one, under the present weights, if that is asked for."""
        if not self.config.rollout.ahead or step >= self.config.steps:
            return
        problems = self._problems(step + 1)
        drawn = [i for i in self.ranks.share(len(problems)) if not self._reads_reference(step + 1, i)]
        if drawn:
            self.engine.update(self.model)
            requests = self._requests(problems, drawn, step + 1, "rollout")
            self.ahead.start(requests, self._sample, beside=is_url(self.config.rollout.engine))

    def _requests(self, problems: Sequence[Problem], indices: Sequence[int], step: int, purpose: str) -> list[Request]:
        """What is asked of the engine for the problems at some indices of a step, in order."""
        seed = self.config.seed
        return [
            Request(tuple(self.prompts.student(problems[i].problem)), derive_seed(seed, purpose, step, i))
            for i in indices
        ]

    def _sample(self, requests: Sequence[Request]) -> list[Completion]:
        drawn = sorted(self.engine.sample(requests, self.config.rollout.sampling), key=lambda pair: pair[0])
        return [completion for _, completion in drawn]

    def _contexts(self, problems: Sequence[Problem], step: int) -> list[str | None]:
        """What the teacher is shown of this rank's problems; nothing where a sibling rollout is shown and is wrong."""
        share = [problems[i] for i in self.ranks.share(len(problems))]
        if not self.needs.privileged:
            return [None] * len(share)
        if not self.curriculum.context.drawn:
            return [self.curriculum.context.text(problem) for problem in share]
        siblings = self._completions(problems, step, "sibling")
        right = self._rewards(share, siblings)
        texts = [self.model.description.text(completion.ids) for completion in siblings]
        return [text if reward else None for text, reward in zip(texts, right, strict=True)]

    def _samples(
        self, problems: Sequence[Problem], completions: Sequence[Completion], contexts: Sequence[str | None]
    ) -> list[Sample]:
        """This rank's completions after the student's prompt and, where the objective asks, after the teacher's."""
        share, size = self.ranks.share(len(problems)), self.needs.group_size
        rewards = [0.0] * len(problems)
        if self.needs.reward:  # a group may be spread over ranks
            rewards = self.ranks.gather(self._rewards([problems[i] for i in share], completions))
        samples = [
            Sample(
                student_prompt=self.prompts.student(problems[i].problem),
                teacher_prompt=self._teacher_prompt(problems[i], context),
                completion=completion.ids,
                logprobs=completion.logprobs,
                reward=rewards[i],
                group=rewards[i - i % size :][:size],
                further_prompts=[one.prompt_ids(self.prompts, problems[i]) for one in self.curriculum.further],
            )
            for i, completion, context in zip(share, completions, contexts, strict=True)
        ]
        return [self.teacher.prepare(sample, problems[i]) for i, sample in zip(share, samples, strict=True)]

    def _rewards(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[float]:
        return rewards_of(self.grader, self.model.description, problems, completions)

    def _reads_reference(self, step: int, index: int) -> bool:
        """Whether a sample is among the share that has the reference in the place of a rollout."""
        share = 1.0 if self.needs.offline else self.config.rollout.references
        return random.Random(derive_seed(self.config.seed, "reference", step, index)).random() < share

    def _reference(self, problem: Problem) -> Completion:
        assert problem.solution is not None
        return Completion(tuple(self.prompts.target(problem.problem, problem.solution)), (), finish="stop")

    def _teacher_prompt(self, problem: Problem, context: str | None) -> list[int] | None:
        if not self.needs.teacher:
            return None
        if context is None:
            return self.prompts.student(problem.problem)
        return self.curriculum.context.prompt_ids(self.prompts, problem, context)

    def _completion_metrics(self, rollouts: StepRollouts) -> Metrics:
        """Means over the completions of all ranks."""
        completions = rollouts.completions
        sums = {
            "rollout_tokens": sum(len(c.ids) for c in completions),
            "truncated": sum(not c.whole for c in completions),
            "loops": sum(c.looped for c in completions),
            "repetition": sum(repetition(c.ids) for c in completions),
            **({"reward": sum(s.reward for s in rollouts.samples)} if self.needs.reward else {}),
            "count": len(completions),
        }
        totals = self.ranks.total(sums)
        count = totals.pop("count")
        metrics = {name: total / count for name, total in totals.items()}
        if self.needs.group_size > 1:
            answers = [last_box(self.model.description.text(c.ids)) for c in completions]
            metrics["distinct_answers"] = distinct_answers(self.ranks.gather(answers), self.needs.group_size)
        return metrics

    def _context_metrics(self, rollouts: StepRollouts) -> Metrics:
        """The share of contexts whose answer is not the gold's and, where contexts are drawn, how many there were."""
        if not self.needs.privileged:
            return {}
        contexts = rollouts.contexts
        share = [rollouts.problems[i] for i in self.ranks.share(len(rollouts.problems))]
        shown = zip(share, contexts, strict=True)
        said = self.curriculum.context.form == "example"  # that the answer is another problem's
        pairs = [(p.golds, text) for p, text in shown if p.golds and text and not said and last_box(text)]
        wrong = sum(grade.status == Status.wrong for grade in self.grader.grade(pairs))
        there = sum(text is not None for text in contexts)
        totals = self.ranks.total({"wrong": wrong, "pairs": len(pairs), "there": there, "all": len(contexts)})
        metrics = {"foreign_answers": totals["wrong"] / totals["pairs"]} if totals["pairs"] else {}
        return metrics | ({"siblings": totals["there"] / totals["all"]} if self.curriculum.context.drawn else {})


def rewards_of(
    grader: Grading, description: ModelDescription, problems: Sequence[Problem], completions: Sequence[Completion]
) -> list[float]:
    """1 for a whole completion whose answer is the problem's, else 0, by the grader of evaluation."""
    texts = [description.text(completion.ids) for completion in completions]
    grades = grader.grade([(golds_of(problem), text) for problem, text in zip(problems, texts, strict=True)])
    right = [grade.status == Status.correct for grade in grades]
    return [float(ok and completion.whole) for ok, completion in zip(right, completions, strict=True)]


Draw = Callable[[Sequence[Request]], list[Completion]]
Drawn = dict[int, Completion]  # by what was asked for


class Ahead:
    """The rollouts of the next step, drawn with this step's weights (`rollout.ahead`): finished, under way, or none.

    Attributes:
        staleness: updates between the weights that drew the rollouts taken last and the weights that train on them.
    """

    def __init__(self) -> None:
        self.staleness = 0
        self._future: Future[Drawn] | None = None

    def start(self, requests: Sequence[Request], draw: Draw, beside: bool) -> None:
        """Draws for the next step: `beside` what follows, or at once if the engine shares the model that trains."""
        assert self._future is None

        def work() -> Drawn:
            return {_key(request): one for request, one in zip(requests, draw(requests), strict=True)}

        if beside:
            thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
            self._future = thread.submit(work)
            thread.shutdown(wait=False)
        else:
            self._keep(work())

    def take(self, requests: Sequence[Request]) -> list[Completion] | None:
        """What was drawn for these very requests, once; None where something else was drawn, or nothing."""
        drawn = self._drawn()
        self._future = None
        keys = [_key(request) for request in requests]
        known = bool(keys) and all(key in drawn for key in keys)
        self.staleness = int(known)
        return [drawn[key] for key in keys] if known else None

    def finish(self) -> None:
        """Waits for what is under way: the engine is free then."""
        self._drawn()

    def state(self, ranks: Ranks) -> dict[str, Tensor]:
        """The rollouts of all ranks as tensors; nothing where there are none."""
        drawn = ranks.gather(list(self._drawn().items()))
        if not drawn:
            return {}
        ones = [one for _, one in drawn]
        return {
            "requests": torch.tensor([key for key, _ in drawn]),  # [R]
            "lengths": torch.tensor([len(one.ids) for one in ones]),  # [R]
            "stopped": torch.tensor([one.whole for one in ones]),  # [R]
            "ids": torch.tensor([token for one in ones for token in one.ids], dtype=torch.int32),  # [N]
            "logprobs": torch.tensor([value for one in ones for value in one.logprobs], dtype=torch.float64),  # [N]
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes what a checkpoint has kept; each rank later finds its own among it."""
        self._future = None
        if state:
            lengths = state["lengths"].tolist()
            parts = zip(state["ids"].split(lengths), state["logprobs"].split(lengths), state["stopped"], strict=True)
            ones = [
                Completion(tuple(ids.tolist()), tuple(logprobs.tolist()), "stop" if stopped else "length")
                for ids, logprobs, stopped in parts
            ]
            self._keep(dict(zip(state["requests"].tolist(), ones, strict=True)))

    def _keep(self, drawn: Drawn) -> None:
        self._future = Future()
        self._future.set_result(drawn)

    def _drawn(self) -> Drawn:
        """Raises what the engine has raised."""
        return {} if self._future is None else self._future.result()


def _key(request: Request) -> int:
    """Tells a request from any other in 63 bits, whatever rank asks."""
    digest = hashlib.sha256(f"{request.seed} {request.prompt_ids}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
