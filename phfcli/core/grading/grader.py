"""Grades completions: evaluation, rewards and comparisons use the same grader."""

import os
import re
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from phfcli.core.errors import UserError, first_line
from phfcli.core.extensions import find
from phfcli.core.grading.alignment import align, verdict
from phfcli.core.grading.answers import AS_WRITTEN, Answer, read_choice, read_if_short
from phfcli.core.grading.latex import last_box, last_boxes, split_commas
from phfcli.core.grading.pool import DIED, TIMEOUT, Pool

MEMORY_BYTES = 2 << 30  # of address space for each worker, above what its imports take
_MAX_WORKERS = 8  # by default: bounds the memory that hostile answers can take on a machine with many CPUs


class Status(StrEnum):
    """The outcome of grading. Only `correct` scores 1; timeout, error and bad_gold are failures of the grader."""

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"  # no box, an empty last box, or one that is never closed
    truncated = "truncated"  # cut off by the token limit; set by the caller, never by the grader
    timeout = "timeout"  # the judgement exceeded the wall-clock limit
    error = "error"  # the answer was refused before parsing or could not be parsed, or the worker died
    bad_gold = "bad_gold"  # the gold answer cannot be read


_LETTER = re.compile(r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\s*\(?[A-J]\)?\s*\}?")
_LABEL = re.compile(  # a dash, a comma or a bracket behind a letter are no label here: C - 1 is a difference
    r"\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*\(?[A-J](?:[).:]+[^{}]*)?\s*\}|\([A-J]\)|[A-J][.):](?=[\s~\\]|$))"
    r"[.:]?[~\\ ]*(.*)",
    re.DOTALL,
)
_NAMED = re.compile(r".*\b(?i:option|choice|answer)\b.*|【.*】|.*选.*", re.DOTALL)

# with several accepted answers the first of these statuses counts; a grader failure counts before a wrong answer
_PREFERRED = [
    Status.correct,
    Status.no_answer,
    Status.timeout,
    Status.error,
    Status.wrong,
    Status.bad_gold,
    Status.truncated,
]


@dataclass(frozen=True)
class Grade:
    """A status, and the answer as written in the last box; None if there is no box."""

    status: Status
    answer: str | None


STATUS_OF = {  # from the verdict of a judge or of the pool
    "equal": Status.correct,
    "different": Status.wrong,
    "bad_gold": Status.bad_gold,
    "no_answer": Status.no_answer,
    "unreadable": Status.error,
    "error": Status.error,
    TIMEOUT: Status.timeout,
    DIED: Status.error,
}


class Grader:
    """Grades completions in worker processes; a worker that exceeds the time limit is killed and replaced.

    Use it as a context manager. Threads may share a grader; their calls take turns.

    Args:
        workers: the number of processes, which start when a pair first needs math-verify and live until `close`. None
            is one for each CPU that this process may use, at most 8.
        timeout_s: wall-clock seconds for one judgement, without the start of a process.

    Raises:
        ValueError: fewer than one worker, or no time.
    """

    reads_cut = False  # a completion that the token limit has cut off has no answer

    def __init__(self, workers: int | None = None, timeout_s: float = 5.0) -> None:
        workers = usable_cpus() if workers is None else workers
        if workers < 1 or timeout_s <= 0:
            raise ValueError(f"a grader needs a worker and some time, not workers={workers}, timeout_s={timeout_s}")
        self._pool = Pool(workers, timeout_s, MEMORY_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; a second call does nothing."""
        self._pool.close()

    @property
    def lost_workers(self) -> int:
        """The number of workers that were killed for exceeding the limit or died, each replaced when needed."""
        return self._pool.lost

    def grade(self, pairs: Sequence[tuple[str | Sequence[str], str]]) -> list[Grade]:
        """Grades (gold, completion) pairs, in order; bad text never raises.

        Args:
            pairs: the gold answer, or a sequence of accepted answers of which one suffices, and the whole text of the
                completion, thinking included.
        """
        _check_pairs(pairs)
        golds = [(gold,) if isinstance(gold, str) else tuple(gold) or ("",) for gold, _ in pairs]
        answers = [_final_answer(completion, accepted) for (_, completion), accepted in zip(pairs, golds, strict=True)]
        compared = [
            (read_if_short(gold), read_if_short(_choice_part(answer or "", gold)))
            for accepted, answer in zip(golds, answers, strict=True)
            for gold in accepted
        ]
        statuses = iter(self._compare(compared))
        best = [best_status([next(statuses) for _ in accepted]) for accepted in golds]
        return [Grade(status, answer) for status, answer in zip(best, answers, strict=True)]

    def check_golds(self, golds: Sequence[str]) -> list[bool]:
        """Whether each gold answer is usable: it can be read and equals itself. Others would be graded bad_gold."""
        readings = [read_if_short(gold) for gold in golds]
        texts = [_texts((reading, reading)) if reading and reading.text else None for reading in readings]
        by_parser = list(dict.fromkeys(text for text, it in zip(texts, readings, strict=True) if text and _hard(it)))
        words = dict(zip(by_parser, self._pool.judge(by_parser), strict=True))
        return [text is not None and words.get(text, "equal") == "equal" for text in texts]

    def equivalence_classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """The number of each answer's class of equal answers, in order of appearance; None stays None.

        Each answer is compared with the first member of each class. An answer that cannot be judged equals only its own
        spelling.

        Args:
            answers: values of `Grade.answer`.
        """
        distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
        usable = dict(zip(distinct, self.check_golds(distinct), strict=True))
        heads: list[Answer | None] = []
        class_of: dict[str, int] = {}
        for answer in distinct:
            reading = read_if_short(answer) if usable[answer] else None
            statuses = self._compare([(head, reading) for head in heads]) if reading else []
            class_of[answer] = statuses.index(Status.correct) if Status.correct in statuses else len(heads)
            if class_of[answer] == len(heads):
                heads.append(reading)
        return [None if answer is None else class_of[answer] for answer in answers]

    def _compare(self, pairs: Sequence[tuple[Answer | None, Answer | None]]) -> list[Status]:
        """The status of each (gold, answer) pair. Workers judge only pairs that need the parser, equal pairs once."""
        pairs = [(gold, align(gold, answer) if gold and answer else answer) for gold, answer in pairs]
        decided = [verdict(gold, answer) for gold, answer in pairs]
        open_pairs = [_texts(pair) for pair, word in zip(pairs, decided, strict=True) if word is None]
        distinct = list(dict.fromkeys(open_pairs))
        words = dict(zip(distinct, self._pool.judge(distinct), strict=True))
        return [STATUS_OF[word or words[_texts(pair)]] for pair, word in zip(pairs, decided, strict=True)]


def _check_pairs(pairs: object) -> None:
    """Raises UserError for anything but pairs of text: what another type would be graded as nobody can know."""
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise UserError(f"pairs: grade() takes a list of (gold, completion), and got {reprlib.repr(pairs)}")
    for number, pair in enumerate(pairs):
        gold, completion = pair if isinstance(pair, tuple | list) and len(pair) == 2 else (None, None)
        golds = [gold] if isinstance(gold, str) else gold
        if not (isinstance(completion, str) and isinstance(golds, Sequence) and all(isinstance(g, str) for g in golds)):
            raise UserError(f"pairs[{number}]: grade() takes (gold, completion) as text, and got {reprlib.repr(pair)}")


def best_status(statuses: Sequence[Status]) -> Status:
    """The status that counts among those under several accepted answers."""
    return min(statuses, key=_PREFERRED.index)


def usable_cpus() -> int:
    """The number of CPUs that this process may use, at most _MAX_WORKERS; outside of Linux all CPUs count."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _MAX_WORKERS)


def _final_answer(completion: str, golds: Sequence[str]) -> str | None:
    """The last box; if a gold lists several values, all boxes of the list that ends the completion."""
    if any(len(split_commas(gold)) > 1 for gold in golds):
        boxes = last_boxes(completion)
        if len(boxes) > 1:
            return ", ".join(boxes)
    return last_box(completion)


def _choice_part(answer: str, gold: str) -> str:
    r"""The part of an answer such as \text{(C) } 15 that matches the kind of the gold: the letter or the value."""
    choice = read_choice(answer)
    label = _LABEL.fullmatch(answer) if choice else None
    letter = _LETTER.fullmatch(gold.strip())
    if choice is None or (label is None and not (letter and _NAMED.fullmatch(answer))):
        return answer
    return choice[0] or answer if letter else (label[1] if label else "") or answer


def _hard(reading: Answer | None) -> bool:
    """Whether only the parser can say that a gold answer is usable."""
    if reading is None or reading.words is not None or reading.is_clock:
        return False
    return reading.number is None or reading.name is not None


def _texts(pair: tuple[Answer | None, Answer | None]) -> tuple[str, str]:
    """What a worker is given: normalised texts; both as written, and marked, where one of them is unread."""
    gold, answer = pair
    assert gold is not None
    assert answer is not None
    if gold.unread or answer.unread:
        return f"{AS_WRITTEN}{gold.raw}", f"{AS_WRITTEN}{answer.raw}"
    return gold.text, answer.text


Rule = Callable[[str, str], Grade | bool]  # of (gold, completion), the whole text with its thinking


class Grading(Protocol):
    """The interface of a grader; `Grader` documents the methods."""

    @property
    def reads_cut(self) -> bool:
        """Whether a completion that the token limit has cut off is graded too."""
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
    """Grades with a function. An exception of the function is a failure of the grader, never a wrong answer.

    Attributes:
        rule: the function.
        name: how messages call it.
    """

    rule: Rule
    name: str
    reads_cut: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def grade(self, pairs: Sequence[tuple[str | Sequence[str], str]]) -> list[Grade]:
        return [self._best((golds,) if isinstance(golds, str) else golds, completion) for golds, completion in pairs]

    def check_golds(self, golds: Sequence[str]) -> list[bool]:
        """Every gold answer that is not empty is usable.

        Raises:
            UserError: where the rule cannot judge the first of them as an answer to itself: its code is at fault.
        """
        if golds:
            try:
                _as_grade(self.rule(golds[0], golds[0]))
            except Exception as error:  # the function may raise anything
                raise UserError(
                    f"grader {self.name}: fails on {golds[0][:40]!r} as gold answer and as completion: "
                    f"{type(error).__name__}: {first_line(error)}"
                ) from error
        return [bool(gold.strip()) for gold in golds]

    def equivalence_classes(self, answers: Sequence[str | None]) -> list[int | None]:
        """Answers are equal if they are spelled alike."""
        class_of = {answer: number for number, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
        return [None if answer is None else class_of[answer] for answer in answers]

    def _best(self, golds: Sequence[str], completion: str) -> Grade:
        """The grade under several accepted answers: correct if it is correct under one of them."""
        grades = [self._grade_pair(gold, completion) for gold in golds]
        return next((grade for grade in grades if grade.status == Status.correct), grades[0])

    def _grade_pair(self, gold: str, completion: str) -> Grade:
        try:
            return _as_grade(self.rule(gold, completion))
        except Exception:  # a plugin's function may raise anything
            return Grade(Status.error, None)


def _as_grade(judged: object) -> Grade:
    """What a rule has said. Raises TypeError for anything but a grade, true, false, 1 and 0."""
    if isinstance(judged, Grade):
        return judged
    if judged not in (True, False):
        raise TypeError(f"it gives {judged!r:.40} for an answer, and not True or False")
    return Grade(Status.correct if judged else Status.wrong, None)


def choice(gold: str, completion: str) -> Grade:
    r"""Grades a multiple choice by the letter of the last box: C, C. 15 and \text{(C) 15} alike; A or C is wrong."""
    box = last_box(completion)
    letter = read_choice(box or "")
    if letter is None:
        return Grade(Status.no_answer, None)
    return Grade(Status.correct if letter[0] == gold else Status.wrong, letter[0] or box)


def find_rule(name: str) -> RuleGrader:
    """The grader of a registered plugin rule. Raises UserError for a name that is not registered."""
    rule = find("graders", name)
    if rule is None:
        raise UserError(f"grader: {name!r} is unknown; register it first")
    return RuleGrader(rule, name)
