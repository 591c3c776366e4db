"""Loads the training problems, checks that they fit, and orders them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from phfcli.core.config import ColumnSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.prompts import Prompts
from phfcli.core.seeds import derive_seed
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.tables import Row, looks_like_file, read_hub, read_rows, require_columns, rows_hash, text
from phfcli.core.types import Problem


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


@dataclass(frozen=True)
class SequenceLengths:
    """How long the sequence of a problem is in training.

    Attributes:
        privileged: a reader sees the prompt that contains the reference.
        rollout: tokens that a completion may have; None where the reference itself is the completion.
    """

    prompts: Prompts
    privileged: bool = True
    rollout: int | None = None

    def length(self, problem: Problem) -> int:
        """Tokens of the longest sequence that is read."""
        assert problem.solution is not None
        if self.privileged:
            prompt = self.prompts.teacher(problem.problem, problem.solution)
        else:
            prompt = self.prompts.student(problem.problem)
        if self.rollout is None:
            return len(prompt) + len(self.prompts.target(problem.problem, problem.solution))
        return len(prompt) + self.rollout


def build_curriculum(config: TrainConfig, sequence_lengths: SequenceLengths, context: int) -> tuple[Curriculum, int]:
    """The problems in their order, and how many were left out because they do not fit into `context` tokens.

    Only the problems that the run will visit are measured, before any of its time is spent.

    Raises:
        UserError: for a problem that does not fit, unless config.overlong is "skip".
    """
    problems = load_problems(config.data, config.columns)
    if sequence_lengths.rollout is not None and sequence_lengths.rollout >= context:
        raise UserError(
            f"rollout.max_new_tokens: {sequence_lengths.rollout} leave no room for a prompt "
            f"in the model's context of {context} tokens"
        )
    curriculum = Curriculum(problems, config.batch_size, config.seed)
    if config.overlong == "skip":
        fitting = [p for p in problems if sequence_lengths.length(p) <= context]
        if not fitting:
            raise UserError(f"{config.data}: no problem fits into {context} tokens")
        return Curriculum(fitting, config.batch_size, config.seed), len(problems) - len(fitting)
    for problem in curriculum.visited(config.steps):
        if (length := sequence_lengths.length(problem)) > context:
            what = "its reference" if sequence_lengths.rollout is None else f"a rollout of {sequence_lengths.rollout}"
            raise UserError(
                f"{config.data}: problem {problem.id} takes {length} tokens with {what}, more than the {context} "
                "that fit; leave such problems out with --set overlong=skip"
                + ("" if sequence_lengths.rollout is None else ", or shorten rollout.max_new_tokens")
            )
    return curriculum, 0
