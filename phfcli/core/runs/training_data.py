"""Loads the training problems, checks that they fit, and orders them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.grading import last_box
from phfcli.core.grading.golds import GOLD_FORMS, check_plausible
from phfcli.core.models.prompts import Prompts
from phfcli.core.seeds import derive_seed
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.problem_rows import Columns, ProblemTable, read_problems, rows_hash
from phfcli.core.storage.tables import looks_like_file, read_hub, read_rows, split_hub_name
from phfcli.core.types import Problem


def load_problems(config: TrainConfig) -> ProblemTable:
    """The training problems of a file, a hub data set or the embedded set, each with its reference solution.

    Raises:
        UserError: for a source that cannot be read, a missing column, or a bad row unless such rows are skipped.
    """
    data, own = config.data, config.columns
    if data == EMBEDDED:
        rows = read_rows(embedded_problems("train"))
    elif looks_like_file(data):
        rows = read_rows(Path(data))
    else:
        name, configuration, split = split_hub_name(data)
        rows = read_hub(name, split, configuration)
    gold = GOLD_FORMS[config.gold]
    columns = Columns(own.problem, own.solution, own.answer, required=("problem", "solution"), gold=gold)
    return read_problems(rows, columns, data, config.bad_rows)


def reward_golds(problem: Problem) -> tuple[str, ...]:
    """The gold answers that a reward is graded by: the row's own, else the last box of its solution."""
    box = last_box(problem.solution or "")
    return problem.golds or (() if box is None else (box,))


def check_rewards(problems: Sequence[Problem], source: str) -> list[str]:
    """Warnings on problems whose reward would always be 0, since there is no plausible gold answer to grade by.

    Raises:
        UserError: where most problems are so.
    """
    golds = [reward_golds(problem) for problem in problems]
    without = [problem.id for problem, own in zip(problems, golds, strict=True) if not own]
    notes = []
    if without:
        message = (
            f"{source}: {len(without)} of {len(problems)} problems, such as {without[0]}, have neither an answer nor a "
            "\\boxed in their solution, so the reward of every completion would be 0; name the column of answers with "
            "--set columns.answer=COLUMN"
        )
        if 2 * len(without) > len(problems):
            raise UserError(message)
        notes.append(message)
    warning = check_plausible([gold for own in golds for gold in own], source)
    return [*notes, warning] if warning else notes


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
    def bad(self) -> Sequence[str]:
        """What is wrong with the rows that were left out."""
        return self.problems.bad if isinstance(self.problems, ProblemTable) else ()

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
        references: some samples have the reference in the place of a rollout.
    """

    prompts: Prompts
    privileged: bool = True
    rollout: int | None = None
    references: bool = False

    def length(self, problem: Problem) -> int:
        """Tokens of the longest sequence that is read."""
        assert problem.solution is not None
        if self.privileged:
            prompt = self.prompts.teacher(problem.problem, problem.solution)
        else:
            prompt = self.prompts.student(problem.problem)
        target = 0
        if self.rollout is None or self.references:
            target = len(self.prompts.target(problem.problem, problem.solution))
        return len(prompt) + max(target, self.rollout or 0)


def build_curriculum(config: TrainConfig, sequence_lengths: SequenceLengths, context: int) -> tuple[Curriculum, int]:
    """The problems in their order, and how many were left out because they do not fit into `context` tokens.

    Only the problems that the run will visit are measured, before any of its time is spent.

    Raises:
        UserError: for a problem that does not fit, unless config.overlong is "skip".
    """
    problems = load_problems(config)
    if sequence_lengths.rollout is not None and sequence_lengths.rollout >= context:
        raise UserError(
            f"rollout.max_new_tokens: {sequence_lengths.rollout} leave no room for a prompt "
            f"in the model's context of {context} tokens"
        )
    curriculum = Curriculum(problems, config.batch_size, config.seed)
    if config.overlong == "skip":
        fitting = problems.where(lambda problem: sequence_lengths.length(problem) <= context)
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
