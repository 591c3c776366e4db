"""What a privileged teacher is shown of a problem in the place of `{solution}`: the setting `teacher.context`.

reference         the whole reference solution: the published method
first-third       its first third, up to a word's end
answer            the gold answer alone
sibling           another rollout of the same problem that was right; drawn where it is needed
other-reference   the reference of another problem: its style, and nothing to know
wrong-answer      the reference with another number in the place of its answer
TEXT {COLUMN}     any text with columns of the data, such as a hint
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from phfcli.core.errors import UserError
from phfcli.core.grading import last_box
from phfcli.core.names import CONTEXTS
from phfcli.core.seeds import derive_seed
from phfcli.core.types import Problem

_COLUMN = re.compile(r"\{(\w+)\}")
_OWN = ("problem", "solution", "answer")  # which a text may name besides the columns of the data


@dataclass(frozen=True)
class Context:
    """What is shown of each problem.

    Attributes:
        name: as in the setting.
        problems: among which another one is found.
    """

    name: str = "reference"
    problems: Sequence[Problem] = ()
    seed: int = 0

    @property
    def drawn(self) -> bool:
        """Whether it is a rollout, which is not known before."""
        return self.name == "sibling"

    def text(self, problem: Problem) -> str:
        """What is shown of a problem; nothing yet where it is drawn.

        Raises:
            UserError: where the problem, or the data, has nothing of the kind.
        """
        solution = problem.solution or ""
        match self.name:
            case "reference":
                return solution
            case "first-third":
                return first_third(solution)
            case "answer":
                return self._answer(problem)
            case "sibling":
                return ""
            case "other-reference":
                return self._other(problem).solution or ""
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
                f"teacher.context={self.name}: problem {problem.id} has neither an answer nor a \\boxed in its solution"
            )
        return answer

    def _wrong(self, problem: Problem) -> str:
        """Another number where the answer is one, else another problem's answer."""
        answer = self._answer(problem)
        if re.fullmatch(r"-?\d{1,18}", answer):
            return str(int(answer) + 1 + derive_seed(self.seed, "wrong", problem.id) % 9)
        return self._answer(self._other(problem))

    def _other(self, problem: Problem) -> Problem:
        """Another problem, with another answer."""
        own = answer_of(problem)
        found = next((p for p in self._others(problem) if p.id != problem.id and answer_of(p) != own), None)
        if found is None:
            raise UserError(f"teacher.context={self.name}: no other problem has another answer than {problem.id}")
        return found

    def _others(self, problem: Problem) -> Iterator[Problem]:
        """All problems, beginning where the seed says."""
        count = len(self.problems)
        start = derive_seed(self.seed, "other", problem.id)
        return (self.problems[(start + place) % count] for place in range(count))


def columns_in(name: str) -> tuple[str, ...]:
    """The columns of the data that a context names, besides those of every problem."""
    named = [] if name in CONTEXTS else _COLUMN.findall(name)
    return tuple(dict.fromkeys(column for column in named if column not in _OWN))


def golds_of(problem: Problem) -> tuple[str, ...]:
    """The gold answers that a completion is graded by: the row's own, else the last box of its solution."""
    box = last_box(problem.solution or "")
    return problem.golds or (() if box is None else (box,))


def answer_of(problem: Problem) -> str | None:
    """The first of its gold answers, if there is one."""
    return next(iter(golds_of(problem)), None)


def first_third(text: str) -> str:
    """The first third of a text, without a word that it would cut."""
    end = len(text) // 3
    whole = text[:end].rstrip() if text[end : end + 1].isspace() else text[:end].rpartition(" ")[0].rstrip()
    return whole or text[:end]


def with_answer(solution: str, answer: str | None, other: str) -> str:
    """The solution with another answer wherever its own stands as a whole; told at its end where it stands nowhere."""
    own = last_box(solution) or answer or ""
    changed, count = re.subn(rf"(?<![\w.]){re.escape(own)}(?!\w|\.\d)", lambda _: other, solution) if own else ("", 0)
    return changed if count else f"{solution} \\boxed{{{other}}}"
