"""Draws and grades the model's completions, plain and under each context."""

from collections.abc import Sequence
from dataclasses import dataclass

from phfcli.core.analysis.probe.experiment import Experiment
from phfcli.core.grading import Grader, Status
from phfcli.core.rollouts.transformers_engine import TransformersEngine
from phfcli.core.runs.contexts import Context, golds_of
from phfcli.core.seeds import derive_seed
from phfcli.core.types import Completion, Problem, Request


@dataclass(frozen=True)
class Answer:
    """A completion of a problem, and whether it is right."""

    place: int  # of the problem
    number: int
    prompt: tuple[int, ...]
    completion: Completion
    text: str
    right: bool


def plain_answers(experiment: Experiment, grader: Grader) -> list[Answer]:
    """The student's own rollouts: `samples` of each problem."""
    prompts = [experiment.prompts.student(problem.problem) for problem in experiment.problems]
    return _draw(experiment, grader, [(place, n, prompts[place]) for place, n in _every(experiment)])


def privileged_answers(experiment: Experiment, grader: Grader, prompts: Sequence[list[int] | None]) -> list[Answer]:
    """Completions after the privileged prompt of each of the student's rollouts, where there is one.

    Each draws the random numbers of the plain completion, so that a difference is the prompt's.
    """
    places = zip(_every(experiment), prompts, strict=True)
    return _draw(experiment, grader, [(place, n, prompt) for (place, n), prompt in places if prompt is not None])


def privileged_prompts(experiment: Experiment, context: Context, plain: Sequence[Answer]) -> list[list[int] | None]:
    """What the teacher reads of each rollout; None where no sibling of it is right."""
    prompts: list[list[int] | None] = []
    for answer in plain:
        problem = experiment.problems[answer.place]
        shown = _sibling(answer, plain) if context.drawn else context.text(problem)
        prompts.append(None if shown is None else experiment.prompts.teacher(problem.problem, shown))
    return prompts


def scores(experiment: Experiment, answers: Sequence[Answer]) -> dict[str, list[float]]:
    """Of each problem with answers 1 for a right one and 0 for another."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        found.setdefault(experiment.problems[answer.place].id, []).append(float(answer.right))
    return found


def _every(experiment: Experiment) -> list[tuple[int, int]]:
    return [(place, n) for place in range(len(experiment.problems)) for n in range(experiment.samples)]


def _draw(experiment: Experiment, grader: Grader, asked: Sequence[tuple[int, int, list[int]]]) -> list[Answer]:
    requests = [
        Request(tuple(prompt), derive_seed(experiment.config.seed, "probe", place, number))
        for place, number, prompt in asked
    ]
    drawn = dict(TransformersEngine(experiment.model).sample(requests, experiment.sampling, logprobs=False))
    completions = [drawn[index] for index in range(len(requests))]
    texts = [experiment.model.description.text(completion.ids) for completion in completions]
    right = _grade(grader, [experiment.problems[place] for place, _, _ in asked], texts, completions)
    return [
        Answer(place, number, request.prompt_ids, completion, text, ok)
        for (place, number, _), request, completion, text, ok in zip(
            asked, requests, completions, texts, right, strict=True
        )
    ]


def _grade(
    grader: Grader, problems: Sequence[Problem], texts: Sequence[str], completions: Sequence[Completion]
) -> list[bool]:
    grades = grader.grade([(golds_of(problem), text) for problem, text in zip(problems, texts, strict=True)])
    ended = [completion.finish == "stop" for completion in completions]
    return [whole and grade.status == Status.correct for whole, grade in zip(ended, grades, strict=True)]


def _sibling(answer: Answer, plain: Sequence[Answer]) -> str | None:
    """The text of another rollout of the same problem that was right."""
    others = (a for a in plain if a.place == answer.place and a.number != answer.number and a.right)
    return next((other.text for other in others), None)
