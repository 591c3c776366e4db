"""The reward of a completion: whether its answer is right."""

from collections.abc import Sequence

from phfcli.core.grading import Grading, Status
from phfcli.core.models.description import ModelDescription
from phfcli.core.runs.contexts import golds_of
from phfcli.core.types import Completion, Problem


def rewards_of(
    grader: Grading, description: ModelDescription, problems: Sequence[Problem], completions: Sequence[Completion]
) -> list[float]:
    """1 for a whole completion whose answer is the problem's, else 0, by the grader of evaluation."""
    texts = [description.text(completion.ids) for completion in completions]
    grades = grader.grade([(golds_of(problem), text) for problem, text in zip(problems, texts, strict=True)])
    whole = [completion.finish == "stop" for completion in completions]
    return [float(ok and grade.status == Status.correct) for ok, grade in zip(whole, grades, strict=True)]
