"""Training problems: where they come from, whether they fit, and in which order they are visited."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from phfcli.core.config import ColumnSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.prompts import Prompts
from phfcli.core.records import Problem
from phfcli.core.resources import EMBEDDED, embedded_problems
from phfcli.core.seeds import derive_seed
from phfcli.core.tables import Row, looks_like_file, read_hub, read_rows, require_columns, rows_hash, text


def load_problems(data: str, columns: ColumnSettings) -> list[Problem]:
    """The training problems of a file, a hub id or the embedded set, each with its reference solution.

    Raises:
        UserError: for a source that cannot be read, a missing column or an empty cell.
    """
    if data == EMBEDDED:
        rows = read_rows(embedded_problems("train"))
    elif looks_like_file(data):
        rows = read_rows(Path(data))
    else:
        rows = read_hub(data, split="train")
    require_columns(rows, [columns.problem, columns.solution], data)
    return [_problem(row, index, columns, data) for index, row in enumerate(rows)]


def _problem(row: Row, index: int, columns: ColumnSettings, source: str) -> Problem:
    answer = row.get(columns.answer)
    return Problem(
        id=str(row.get("id", index)),
        problem=text(row[columns.problem], source, index, columns.problem),
        solution=text(row[columns.solution], source, index, columns.solution),
        answer=None if answer is None else str(answer),
    )


@dataclass(frozen=True)
class Curriculum:
    """The problems of each step: every epoch is a permutation drawn from the seed, a step is the next batch of it.

    It has no state: the batch of a step is a function of the step, so a resumed run visits the same problems.
    """

    problems: Sequence[Problem]
    batch_size: int
    seed: int

    def batch(self, step: int) -> list[Problem]:
        """The problems of a step; the first step is 1."""
        start = (step - 1) * self.batch_size
        return [self._at(index) for index in range(start, start + self.batch_size)]

    def visited(self, steps: int) -> list[Problem]:
        """The problems of the first so many steps, each once."""
        return list(dict.fromkeys(p for step in range(1, steps + 1) for p in self.batch(step)))

    @property
    def steps_per_epoch(self) -> float:
        return len(self.problems) / self.batch_size

    @property
    def sha256(self) -> str:
        return rows_hash(self.problems)

    def _at(self, index: int) -> Problem:
        epoch, place = divmod(index, len(self.problems))
        return self.problems[_order(self.seed, epoch, len(self.problems))[place]]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count).tolist()
    return order


def build_curriculum(config: TrainConfig, prompts: Prompts, context: int) -> tuple[Curriculum, int]:
    """The problems in their order, and how many were left out because they do not fit.

    Only the problems that the run will visit are measured, before any of its time is spent.

    Raises:
        UserError: for a problem that does not fit its context, unless config.overlong is "skip".
    """
    problems = load_problems(config.data, config.columns)
    budget = context - config.rollout.max_new_tokens
    if budget < 1:
        raise UserError(
            f"rollout.max_new_tokens: {config.rollout.max_new_tokens} leave no room for a prompt "
            f"in the model's context of {context} tokens"
        )
    curriculum = Curriculum(problems, config.batch_size, config.seed)
    if config.overlong == "skip":
        fitting = [p for p in problems if _length(p, prompts) <= budget]
        if not fitting:
            raise UserError(f"{config.data}: no problem fits the model's context of {context} tokens")
        return Curriculum(fitting, config.batch_size, config.seed), len(problems) - len(fitting)
    for problem in curriculum.visited(config.steps):
        if (length := _length(problem, prompts)) > budget:
            raise UserError(
                f"{config.data}: problem {problem.id} with its reference takes {length} tokens, and with a rollout of "
                f"{config.rollout.max_new_tokens} exceeds the model's context of {context}; shorten "
                "rollout.max_new_tokens, or leave such problems out with --set overlong=skip"
            )
    return curriculum, 0


def _length(problem: Problem, prompts: Prompts) -> int:
    assert problem.solution is not None
    return len(prompts.teacher(problem.problem, problem.solution))
