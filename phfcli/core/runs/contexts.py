"""The privileged context of the teacher, `teacher.context`: what its prompt shows, most often besides the problem.

reference         the whole reference solution, as in the published method
first-third       the first third of the reference solution, up to the end of a word
answer            the gold answer alone
sibling           another rollout of the same problem with a right answer; the student draws it during the step
other-reference   the reference solution of another problem: a control with the same style and no information
other-problem     another problem with its solution, as an example that is said to be one (OP2SD)
wrong-answer      the reference solution with another number in the place of its answer
reference-free    nothing: the student's own prompt, in the teacher's mode of thinking
reference-only    the reference solution without the problem
TEXT {COLUMN}     any text with columns of the data, such as a hint
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phfcli.core.errors import UserError
from phfcli.core.grading import last_box
from phfcli.core.models.prompts import Prompts
from phfcli.core.names import CONTEXTS, ContextForm
from phfcli.core.seeds import derive_seed
from phfcli.core.types import Problem

_COLUMN = re.compile(r"\{(\w+)\}")
_FORMS: dict[str, ContextForm] = {"other-problem": "example", "reference-only": "alone", "reference-free": "free"}
_FIELDS = ("problem", "solution", "answer")  # of every problem, which a text may name like columns of the data


@dataclass(frozen=True)
class Context:
    """The privileged context under one value of `teacher.context`.

    Attributes:
        name: the value of the setting.
        problems: the data set, from which "other-reference", "other-problem" and "wrong-answer" take another problem.
        seed: decides which other problem and which wrong number.
        setting: the key that an error names.
    """

    name: str = "reference"
    problems: Sequence[Problem] = ()
    seed: int = 0
    setting: str = "teacher.context"

    @property
    def drawn(self) -> bool:
        """Whether the context is a rollout that has to be drawn first."""
        return self.name == "sibling"

    @property
    def form(self) -> ContextForm:
        """Of the teacher's prompt."""
        return _FORMS.get(self.name, "reference")

    def prompt(self, prompts: Prompts, problem: Problem) -> str:
        """The teacher's prompt of a problem, as text."""
        return prompts.teacher_text(problem.problem, self.text(problem), self.form)

    def prompt_ids(self, prompts: Prompts, problem: Problem, shown: str | None = None) -> list[int]:
        """The teacher's prompt of a problem; `shown` is its text, where that has been drawn or is known already."""
        return prompts.teacher(problem.problem, self.text(problem) if shown is None else shown, self.form)

    def text(self, problem: Problem) -> str:
        """The context of a problem; empty where the context is a rollout that is not drawn yet.

        Raises:
            UserError: the problem has no answer, or the data no other problem with another answer.
        """
        solution = problem.solution or ""
        match self.name:
            case "reference" | "reference-only":
                return solution
            case "first-third":
                return first_third(solution)
            case "answer":
                return self._answer(problem)
            case "sibling" | "reference-free":
                return ""
            case "other-reference":
                return self._other(problem).solution or ""
            case "other-problem":
                other = self._other(problem)
                return f"{other.problem}\n\nIts solution:\n\n{other.solution or ''}"
            case "wrong-answer":
                return with_answer(solution, answer_of(problem), self._wrong(problem))
        cells = {
            "problem": problem.problem,
            "solution": solution,
            "answer": problem.answer or "",
            **dict(problem.columns),
        }
        return _COLUMN.sub(lambda match: cells.get(match[1], match[0]), self.name)

    def _answer(self, problem: Problem) -> str:
        if (answer := answer_of(problem)) is None:
            raise UserError(
                f"{self.setting}={self.name}: problem {problem.id} has neither an answer nor a \\boxed in its solution"
            )
        return answer

    def _wrong(self, problem: Problem) -> str:
        """A wrong answer: another integer where the answer is an integer, else the answer of another problem."""
        answer = self._answer(problem)
        if re.fullmatch(r"-?\d{1,18}", answer):
            return str(int(answer) + 1 + derive_seed(self.seed, "wrong", problem.id) % 9)
        return self._answer(self._other(problem))

    def _other(self, problem: Problem) -> Problem:
        """A problem with another text and another answer."""
        answer, text = answer_of(problem), problem.problem.split()
        others = (p for p in self._candidates(problem) if answer_of(p) != answer and p.problem.split() != text)
        other = next(others, None)
        if other is None:
            raise UserError(
                f"{self.setting}={self.name}: no other problem has another text and another answer than {problem.id}"
            )
        return other

    def _candidates(self, problem: Problem) -> Iterator[Problem]:
        """All problems in a cyclic order that starts where the seed says."""
        count = len(self.problems)
        start = derive_seed(self.seed, "other", problem.id)
        return (self.problems[(start + offset) % count] for offset in range(count))


def check_differs(context: Context, prompts: Prompts) -> None:
    """Raises UserError where a teacher that is the student itself would read what the student reads: no loss at all."""
    if context.form == "free" and prompts.student_text("") == prompts.teacher_text("", "", "free"):
        raise UserError(
            "teacher.context=reference-free: both readers have the same weights and the same prompt, so the loss is 0; "
            "set prompt.thinking and prompt.teacher_thinking to different modes that the chat template has"
        )


def columns_in(name: str) -> tuple[str, ...]:
    """The columns of the data that a context names, without the fields that every problem has."""
    named = [] if name in CONTEXTS else _COLUMN.findall(name)
    return tuple(dict.fromkeys(column for column in named if column not in _FIELDS))


def golds_of(problem: Problem) -> tuple[str, ...]:
    """The gold answers of a problem: those of its row, else the last box of its solution."""
    box = last_box(problem.solution or "")
    return problem.golds or (() if box is None else (box,))


def answer_of(problem: Problem) -> str | None:
    """The first gold answer of a problem, or None."""
    return next(iter(golds_of(problem)), None)


def first_third(text: str) -> str:
    """The first third of a text, without its last word where that word would be cut."""
    end = len(text) // 3
    whole = text[:end].rstrip() if text[end : end + 1].isspace() else text[:end].rpartition(" ")[0].rstrip()
    return whole or text[:end]


def with_answer(solution: str, answer: str | None, other: str) -> str:
    """The solution with its answer replaced wherever it stands as a word; appended in a box if it stands nowhere."""
    right = last_box(solution) or answer or ""
    pattern = rf"(?<![\w.]){re.escape(right)}(?!\w|\.\d)"
    changed, count = re.subn(pattern, lambda _: other, solution) if right else ("", 0)
    return changed if count else f"{solution} \\boxed{{{other}}}"
