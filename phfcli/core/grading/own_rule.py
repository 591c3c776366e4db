"""Grading by a rule of somebody's own, for answers that are no mathematics: a program's output, a date, a choice."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from phfcli.core.errors import UserError
from phfcli.core.extensions import find
from phfcli.core.grading.boxes import last_box
from phfcli.core.grading.grader import Grade, Status

_CHOICE = re.compile(r"\s*\$?\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*\(?\s*([A-Za-z])(?![A-Za-z0-9])")

Rule = Callable[[str, str], Grade]  # (gold, completion): the whole text of the completion, thinking included


class Grading(Protocol):
    """What evaluation and rewards ask of a grader; `Grader` says what each does."""

    @property
    def reads_cut(self) -> bool:
        """Whether a completion that the token limit has cut is graded as it stands."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def grade(self, pairs: Sequence[tuple[str | Sequence[str], str]]) -> list[Grade]: ...
    def check_golds(self, golds: Sequence[str]) -> list[bool]: ...
    def equivalence_classes(self, answers: Sequence[str | None]) -> list[int | None]: ...


@dataclass(frozen=True)
class RuleGrader:
    """Grades by a rule. What the rule raises is a failure of the grader, never a wrong answer."""

    rule: Rule
    reads_cut: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def grade(self, pairs: Sequence[tuple[str | Sequence[str], str]]) -> list[Grade]:
        return [self._best((golds,) if isinstance(golds, str) else golds, completion) for golds, completion in pairs]

    def check_golds(self, golds: Sequence[str]) -> list[bool]:
        """Any gold answer that says something is usable."""
        return [bool(gold.strip()) for gold in golds]

    def equivalence_classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """Answers are equal where they are spelt alike."""
        places = {answer: place for place, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
        return [None if answer is None else places[answer] for answer in answers]

    def _best(self, golds: Sequence[str], completion: str) -> Grade:
        """The grade under the accepted answers: correct if it is so under one of them."""
        grades = [self._one(gold, completion) for gold in golds]
        return next((grade for grade in grades if grade.status == Status.correct), grades[0])

    def _one(self, gold: str, completion: str) -> Grade:
        try:
            return self.rule(gold, completion)
        except Exception:  # whatever a rule of others may raise
            return Grade(Status.error, None)


def choice(gold: str, completion: str) -> Grade:
    r"""The letter of an option, which the last box holds or begins with: C, (C), C. and \text{(C) 15} alike."""
    found = _CHOICE.match(last_box(completion) or "")
    if found is None:
        return Grade(Status.no_answer, None)
    return Grade(Status.correct if found[1].upper() == gold else Status.wrong, found[1].upper())


def find_rule(name: str) -> RuleGrader:
    """The grader of a rule that somebody has added."""
    rule = find("graders", name)
    if rule is None:
        raise UserError(f"grader: {name!r} is unknown; register it first")
    return RuleGrader(rule)
