"""The training problems of a run: loading, checks, the order of steps, and the limit on sequence length."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.grading.answers import GOLD_FORMS, check_plausible
from phfcli.core.models.prompts import Prompts
from phfcli.core.names import TEACHERS
from phfcli.core.objectives.contract import Needs
from phfcli.core.runs.contexts import Context, check_differs, columns_in, golds_of
from phfcli.core.seeds import derive_seed
from phfcli.core.shipped_files import EMBEDDED, embedded_problems
from phfcli.core.storage.problem_rows import Columns, ProblemTable, lost_turns, read_problems, rows_hash, skipped_rows
from phfcli.core.storage.tables import looks_like_file, read_hub, read_rows, split_hub_name
from phfcli.core.types import Problem


def load_problems(config: TrainConfig, further: tuple[str, ...] = ()) -> ProblemTable:
    """The training problems of a file, a hub data set or the embedded set, each with its reference solution.

    Args:
        further: columns of the data to keep, besides those that the teacher's context names.

    Raises:
        UserError: a source that cannot be read, a missing column, or a bad row unless such rows are skipped.
    """
    data, names = config.data, config.columns
    if data == EMBEDDED:
        rows = read_rows(embedded_problems("train"))
    elif looks_like_file(data):
        rows = read_rows(Path(data))
    else:
        name, configuration, split = split_hub_name(data)
        rows = read_hub(name, split, configuration)
    gold = GOLD_FORMS[config.gold]
    own = config.teacher.context
    contexts = (own, *config.target.further(own))
    named = tuple(dict.fromkeys((*chain.from_iterable(map(columns_in, contexts)), *further)))
    required = ("problem", "solution")
    columns = Columns(names.problem, names.solution, names.answer, required=required, gold=gold, further=named)
    return read_problems(rows, columns, data, config.bad_rows)


def check_rewards(problems: Sequence[Problem], source: str) -> list[str]:
    """Warnings about problems whose reward would always be 0, because they have no plausible gold answer.

    Raises:
        UserError: most problems are such.
    """
    golds = [golds_of(problem) for problem in problems]
    without = [problem.id for problem, answers in zip(problems, golds, strict=True) if not answers]
    notes = []
    if without:
        message = (
            f"{source}: {len(without)} of {len(problems)} problems, such as {without[0]}, have neither an answer nor a "
            "\\boxed in their solution, so the reward of every completion would be 0; set columns.answer to the column "
            "of answers"
        )
        if 2 * len(without) > len(problems):
            raise UserError(message)
        notes.append(message)
    warning = check_plausible([gold for answers in golds for gold in answers], source)
    return [*notes, warning] if warning else notes


@dataclass(frozen=True)
class SequenceLengths:
    """Computes the length of a problem's longest sequence in training.

    Attributes:
        privileged: whether a teacher reads the prompt with the privileged context.
        rollout: the largest number of tokens of a completion; None where the reference is the completion.
        references: whether some samples have the reference in the place of a rollout.
        context, further: the privileged context, and those that a target is made of besides.
    """

    prompts: Prompts
    privileged: bool = True
    rollout: int | None = None
    references: bool = False
    context: Context = Context()
    further: tuple[Context, ...] = ()
    _teacher_prompts: dict[str, int] = field(  # id -> length, once known
        default_factory=dict, init=False, repr=False, compare=False
    )

    def length(self, problem: Problem) -> int:
        """The number of tokens of the longest sequence that student or teacher reads."""
        assert problem.solution is not None
        prompt = self.teacher_prompt(problem) if self.privileged else len(self.prompts.student(problem.problem))
        target = 0
        if self.rollout is None or self.references:
            target = len(self.prompts.target(problem.problem, problem.solution))
        return prompt + max(target, self.rollout or 0)

    def teacher_prompt(self, problem: Problem) -> int:
        """The tokens of the longest privileged prompt; a rollout to be drawn for it counts at its largest length."""
        if problem.id not in self._teacher_prompts:
            prompts = (context.prompt_ids(self.prompts, problem) for context in (self.context, *self.further))
            self._teacher_prompts[problem.id] = max(map(len, prompts)) + (self.rollout or 0) * self.context.drawn
        return self._teacher_prompts[problem.id]


@dataclass(frozen=True)
class Curriculum:
    """The problems of each step: every epoch is a permutation drawn from the seed, and a step takes its next batch.

    The batch of a step is a function of the step number alone, so a resumed run visits the same problems.
    """

    problems: Sequence[Problem]
    batch_size: int
    seed: int
    lengths: SequenceLengths | None = None  # what has measured the problems; None where only their order is asked for

    @property
    def measured(self) -> SequenceLengths:
        assert self.lengths is not None, "made for the order alone"
        return self.lengths

    @property
    def context(self) -> Context:
        """The privileged context of these problems."""
        return self.measured.context

    @property
    def further(self) -> tuple[Context, ...]:
        """The contexts that a target is made of besides."""
        return self.measured.further

    def batch(self, step: int) -> list[Problem]:
        """The problems of a step; the first step is 1."""
        start = (step - 1) * self.batch_size
        return [self._at(index) for index in range(start, start + self.batch_size)]

    def visited(self, steps: int) -> list[Problem]:
        """The problems of the first `steps` steps, each once."""
        return [self._at(index) for index in range(min(steps * self.batch_size, len(self.problems)))]

    @property
    def bad(self) -> Sequence[str]:
        """A sentence on each row of the data that was left out."""
        return self.problems.bad if isinstance(self.problems, ProblemTable) else ()

    @property
    def shortened(self) -> int:
        """How many problems of the data are without the system or earlier turns of their conversation."""
        return self.problems.shortened if isinstance(self.problems, ProblemTable) else 0

    @property
    def steps_per_epoch(self) -> float:
        return len(self.problems) / self.batch_size

    @property
    def sha256(self) -> str:
        return self.problems.sha256 if isinstance(self.problems, ProblemTable) else rows_hash(self.problems)

    def _at(self, index: int) -> Problem:
        epoch, position = divmod(index, len(self.problems))
        return self.problems[_order(self.seed, epoch, len(self.problems))[position]]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    order: list[int] = np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(count).tolist()
    return order


def build_curriculum(config: TrainConfig, sequence_lengths: SequenceLengths, limit: int) -> tuple[Curriculum, int]:
    """The problems in order, and the number of those left out because they exceed `limit` tokens.

    Before training, the problems that the run will visit are measured; with overlong=skip all of them.

    Raises:
        UserError: a problem that does not fit, unless config.overlong is "skip".
    """
    problems = load_problems(config)
    own = config.teacher.context
    context = Context(own, problems, config.seed)
    further = tuple(Context(name, problems, config.seed, "target") for name in config.target.further(own))
    sequence_lengths = replace(sequence_lengths, context=context, further=further)
    if sequence_lengths.rollout is not None and sequence_lengths.rollout >= limit:
        raise UserError(
            f"rollout.max_new_tokens: {sequence_lengths.rollout} tokens leave no room for a prompt "
            f"in the model's context of {limit} tokens"
        )
    curriculum = Curriculum(problems, config.batch_size, config.seed, sequence_lengths)
    if config.overlong == "skip":
        fitting = problems.where(lambda problem: sequence_lengths.length(problem) <= limit)
        if not fitting:
            raise UserError(f"{config.data}: no problem fits into {limit} tokens")
        return replace(curriculum, problems=fitting), len(problems) - len(fitting)
    for problem in curriculum.visited(config.steps):
        if (length := sequence_lengths.length(problem)) > limit:
            what = "its reference" if sequence_lengths.rollout is None else f"a rollout of {sequence_lengths.rollout}"
            raise UserError(
                f"{config.data}: problem {problem.id} takes {length} tokens with {what}, more than the {limit} "
                "that fit; set overlong to skip to leave such problems out"
                + ("" if sequence_lengths.rollout is None else ", or shorten rollout.max_new_tokens")
            )
    return curriculum, 0


def fitting_curriculum(
    config: TrainConfig, needs: Needs, prompts: Prompts, contexts: Iterable[int | None]
) -> tuple[Curriculum, int]:
    """The problems that fit into the context of student and teacher, and the number of those left out.

    Args:
        contexts: the context lengths of the models in tokens; None for a model without a limit.

    Raises:
        UserError: problems that cannot be read or do not fit, or a teacher that reads what the student reads.
    """
    limit = min(context for context in (*contexts, needs.max_tokens) if context is not None)
    if needs.privileged and not needs.contexts and config.teacher.kind in TEACHERS:
        check_differs(Context(config.teacher.context), prompts)
    new_tokens = None if needs.offline else config.rollout.max_new_tokens
    lengths = SequenceLengths(prompts, needs.privileged, new_tokens, references=config.rollout.references > 0)
    return build_curriculum(config, lengths, limit)


def rotation_warnings(config: TrainConfig, curriculum: Curriculum, switch: int | None) -> list[str]:
    """A warning where a sequence of the run can be longer than `switch`: see `rotation_switch`."""
    if switch is None:
        return []
    longest = max(curriculum.measured.length(problem) for problem in curriculum.visited(config.steps))
    if longest <= switch:
        return []
    return [
        f"{config.model}: chooses its rotary angles by the longest sequence of a batch: beside one of more than "
        f"{switch} tokens (up to {longest} here) a shorter one is read otherwise than alone; shorten "
        "rollout.max_new_tokens"
    ]


def curriculum_warnings(config: TrainConfig, needs: Needs, curriculum: Curriculum) -> list[str]:
    """Warnings about the problems of a run. Raises UserError if most problems could get no reward."""
    skipped = [skipped_rows(config.data, curriculum.bad)] if curriculum.bad else []
    skipped += lost_turns(config.data, curriculum.shortened)
    graded = needs.reward or (
        needs.privileged and curriculum.context.drawn
    )  # a sibling is a context only if its answer is right
    return skipped + (check_rewards(curriculum.visited(config.steps), config.data) if graded else [])
