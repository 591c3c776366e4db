"""Turns the rows of a data set into problems: one schema for training data and benchmarks, checked before any work.

A cell may hold text or a number; an answer may also be a list of accepted answers, each of which counts; a problem or a
solution may be a list of messages, of which the last user turn is the problem and the last assistant turn the solution.
With a column `choices` or `options`, a list or an object of letters, a row is a multiple-choice question.
Any other content is an error that names file, row and column: it is never turned into text by chance.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, overload

from phfcli.core.errors import UserError, nearest
from phfcli.core.names import BadRows
from phfcli.core.storage.tables import Row, Rows
from phfcli.core.types import Problem

_SHOWN = 3  # bad rows that a message lists
_OPTIONS = ("choices", "options")  # columns
LETTERS = "ABCDEFGHIJ"  # of options
_ROLES = {"problem": "user", "solution": "assistant"}  # whose message of a conversation is the text


class CellError(ValueError):
    """A cell with other content than its column is for; the message says which."""


@dataclass(frozen=True)
class Columns:
    """The columns of a data set by their use; None is not read. `required` ones must be filled in every row."""

    problem: str = "problem"
    solution: str | None = None
    answer: str | None = None
    id: str | None = "id"
    required: tuple[str, ...] = ("problem",)
    gold: Callable[[str], str] = str.strip  # extracts the gold answer from an answer cell
    further: tuple[str, ...] = ()  # columns kept as text; each must be filled in every row
    options: str | None = None  # of a multiple-choice question, filled in every row


@dataclass(frozen=True)
class ProblemTable(Sequence[Problem]):
    """The problems of a data set, each made from its row when it is read.

    Attributes:
        indices: the rows that are problems, in order.
        ids: the problem id of every row.
        bad: a message for each row that was left out.
        shortened: the number of problems without the system or earlier turns of their row's conversation.
        known_hash: see `sha256`; "" where it has not been computed.
    """

    rows: Rows
    columns: Columns
    indices: Sequence[int]
    ids: Sequence[str]
    bad: Sequence[str] = field(default=())
    shortened: int = 0
    known_hash: str = ""

    @property
    def sha256(self) -> str:
        """The hash of the problems' content; those of a whole data set were hashed as its rows were checked."""
        return self.known_hash or rows_hash(self)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> "ProblemTable": ...

    def __getitem__(self, index: int | slice) -> "Problem | ProblemTable":
        if isinstance(index, slice):
            return replace(self, indices=self.indices[index], known_hash="")
        row = self.indices[index]
        return replace(_problem(self.rows[row], self.columns), id=self.ids[row])

    def __iter__(self) -> Iterator[Problem]:
        wanted = iter(self.indices)
        following = next(wanted, None)
        for index, row in enumerate(self.rows):
            if index == following:
                yield replace(_problem(row, self.columns), id=self.ids[index])
                following = next(wanted, None)

    def where(self, kept: Callable[[Problem], bool]) -> "ProblemTable":
        """Only the problems for which `kept` is true."""
        chosen, digest = [], hashlib.sha256()
        for index, problem in zip(self.indices, self, strict=True):
            if kept(problem):
                chosen.append(index)
                digest.update(_hashed(problem.id, _content(problem)))
        return replace(self, indices=chosen, known_hash=digest.hexdigest())


def read_problems(rows: Rows, columns: Columns, source: str, bad_rows: BadRows = "error") -> ProblemTable:
    """The problems of a data set, after a check of every row.

    Raises:
        UserError: for a missing column; for the first bad row, unless bad rows are skipped; and where no row is good.
    """
    _require_columns(rows, columns, source)
    columns = replace(columns, options=_options_column(rows))
    indices, ids, bad, shortened = [], [], [], 0
    named, numbered = hashlib.sha256(), hashlib.sha256()  # ids are known to be unique after the last row only
    for index, row in enumerate(rows):
        try:
            problem = _problem(row, columns)
        except CellError as error:
            if bad_rows == "error":
                raise UserError(
                    f"{source}: {rows.place(index)}: {error}; mend it, or leave such rows out with bad_rows=skip"
                ) from None
            bad.append(f"{rows.place(index)}: {error}")
            ids.append("")
        else:
            indices.append(index)
            ids.append(problem.id or str(index))
            content = _content(problem)
            named.update(_hashed(ids[-1], content))
            numbered.update(_hashed(str(index), content))
            shortened += _loses_turns(row, columns)
    if not indices:
        raise UserError(f"{source}: no row is good: {'; '.join(bad[:_SHOWN])}")
    chosen = {ids[index] for index in indices}
    if len(chosen) < len(indices):  # ids must be unique
        ids, named = [str(index) for index in range(len(ids))], numbered
    return ProblemTable(rows, columns, indices, ids, bad, shortened, named.hexdigest())


def lost_turns(source: str, count: int) -> list[str]:
    """A sentence on conversations of which the prompt shows the last user turn alone; none without such rows."""
    what = "system or earlier turns, which neither prompt nor solution shows"
    return [f"{source}: {count} rows have {what}; give these as text to keep them"] if count else []


def skipped_rows(source: str, bad: Sequence[str]) -> str:
    """A sentence on the rows that were left out."""
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{source}: {len(bad)} bad rows are left out: {'; '.join(bad[:_SHOWN])}{more}"


def rows_hash(problems: Iterable[Problem]) -> str:
    """A sha256 of the problems' content, by which versions of a data set are told from each other."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(_hashed(problem.id, _content(problem)))
    return digest.hexdigest()


def _content(p: Problem) -> bytes:
    """What is hashed of a problem beside its id."""
    parts = [p.problem, p.solution, p.answer, *([list(p.accepted)] if p.accepted else []), *p.columns]
    return json.dumps(parts, ensure_ascii=True).encode()


def _hashed(name: str, content: bytes) -> bytes:
    """What is hashed of a problem that has this id: one JSON list of both."""
    return b"[" + json.dumps(name, ensure_ascii=True).encode() + b", " + content[1:] + b"\n"


def _problem(row: Row, columns: Columns) -> Problem:
    """The problem of a row. Raises CellError for the first cell with wrong content."""
    texts = {
        name: _optional(row, column, name in columns.required, lambda cell, name=name: _text(cell, name))  # type: ignore[misc]
        for name, column in (("problem", columns.problem), ("solution", columns.solution))
    }
    options = _optional(row, columns.options, True, _read_options)

    def golds(cell: Any) -> list[str]:
        return [_right_letter(cell, options)] if options else _answers(cell, columns.gold)

    accepted = _optional(row, columns.answer, "answer" in columns.required, golds)
    problem = texts["problem"] or ""
    return Problem(
        id=_id(row, columns.id),
        problem=as_question(problem, list(options.values())) if options else problem,
        solution=texts["solution"],
        answer=accepted[0] if accepted else None,
        accepted=tuple(accepted) if accepted and len(accepted) > 1 else (),
        columns=tuple((column, _optional(row, column, True, _scalar)) for column in columns.further),
    )


def as_question(question: str, options: Sequence[str]) -> str:
    """A multiple-choice question as one text, its options under the letters A, B, C and so on."""
    lines = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.strip(), "", *lines, "", "Answer with the letter of the right option."])


def _options_column(rows: Rows) -> str | None:
    """The column of options, if the data has one whose first cell is a list or an object."""
    first = rows[0] if len(rows) else {}
    return next((name for name in _OPTIONS if isinstance(first.get(name), list | tuple | dict)), None)


def _read_options(cell: Any) -> dict[str, str]:
    """The options of a question by the letter or label that the data gives each; in a list by A, B, C and so on."""
    if isinstance(cell, dict) and isinstance(cell.get("text"), list) and isinstance(cell.get("label"), list):
        cell = dict(zip(map(str, cell["label"]), cell["text"], strict=False))
    elif isinstance(cell, list | tuple):
        cell = dict(zip(LETTERS, cell, strict=False)) if len(cell) <= len(LETTERS) else {}
    if not isinstance(cell, dict) or not 2 <= len(cell) <= len(LETTERS):
        raise CellError("holds no options: a list of 2 to 10 texts is wanted, or an object such as {A: ..., B: ...}")
    return {str(label).strip(): _scalar(option) for label, option in cell.items()}


def _right_letter(cell: Any, options: Mapping[str, str]) -> str:
    """The letter under which the right option is shown: an answer is its text, its label, or its index from 0 on."""
    given, texts = _scalar(cell).strip(), [text.strip() for text in options.values()]
    is_index = isinstance(cell, int) or (given.isdecimal() and given not in options)
    if not isinstance(cell, int) and texts.count(given) == 1:
        index = texts.index(given)
    elif is_index and int(given) < len(options):
        index = int(given)
    elif given.strip("(). ") in options:
        index = list(options).index(given.strip("(). "))
    else:
        raise CellError(f"holds {given[:40]!r}, which is no label, text or index of the options {', '.join(options)}")
    return LETTERS[index]


def _id(row: Row, column: str | None) -> str:
    """The row's id, or "" where the column holds no text and no integer."""
    cell = None if column is None else row.get(column)
    usable = isinstance(cell, str | int) and not isinstance(cell, bool)
    return (_optional(row, column, False, _scalar) or "") if usable else ""


def _optional(row: Row, column: str | None, required: bool, read: Callable[[Any], Any]) -> Any:
    """The content of a cell by `read`; None where the column is not read, or is empty and not required."""
    if column is None:
        return None
    cell = row.get(column)
    empty = cell is None or (isinstance(cell, str) and not cell.strip())
    if empty and not required:
        return None
    if column not in row:
        raise CellError(f"it has no {column!r}")
    if empty:
        raise CellError(f"{column!r} is empty")
    try:
        return read(cell)
    except CellError as error:
        raise CellError(f"{column!r} {error}") from None


def _text(cell: Any, name: str) -> str:
    """A cell of text or a number as text; of a list of messages the content of the last one of the role of `name`."""
    return _turn(cell, _ROLES[name]) if isinstance(cell, list | tuple) else _scalar(cell)


def _answers(cell: Any, gold: Callable[[str], str]) -> list[str]:
    """The accepted answers of a cell: one, or each of a list."""
    cells = list(cell) if isinstance(cell, list | tuple) else [cell]
    if not cells:
        raise CellError("is an empty list")
    golds = [gold(_scalar(one)) for one in cells]
    if not all(golds):
        raise CellError("holds no gold answer in the form that the setting gold names")
    return list(dict.fromkeys(golds))


def _scalar(cell: Any) -> str:
    if isinstance(cell, str):
        if not cell.strip():
            raise CellError("is empty")
        try:
            cell.encode()  # much faster than a look at each character
        except UnicodeEncodeError:
            raise CellError("holds half of a character (a lone surrogate)") from None
        return cell
    if isinstance(cell, bool) or not isinstance(cell, Real | Decimal):
        raise CellError(f"holds {_kind(cell)}, and text or a number is wanted")
    if isinstance(cell, float | Decimal) and not math.isfinite(
        cell
    ):  # an integer is finite, and may be too large for isfinite
        raise CellError(f"holds {cell}, which is no number")
    return str(cell)


def _turn(messages: Sequence[Any], role: Literal["user", "assistant"] | str) -> str:
    """The content of the last message of that role."""
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise CellError("holds a list, and text or a list of messages with role and content is wanted")
    for message in reversed(messages):
        if message["role"] == role:
            return _scalar(message.get("content"))
    raise CellError(f"holds messages without a turn of the {role}")


def _loses_turns(row: Row, columns: Columns) -> bool:
    """Whether a conversation has turns before its last user turn, a system turn, or answers before its last one."""
    cells = (row.get(columns.problem), row.get(columns.solution or ""))
    asked, answered = ([turn["role"] for turn in cell] if isinstance(cell, list | tuple) else [] for cell in cells)
    last = max((index for index, role in enumerate(asked) if role == "user"), default=0)
    return last > 0 or "system" in answered or answered.count("assistant") > 1


def _kind(cell: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", bytes: "bytes", type(None): "nothing"}
    return names.get(type(cell), f"a value of type {type(cell).__name__}")


def _separator_fix(known: Sequence[str]) -> str | None:
    """A hint for a csv file whose whole header was read as one column: it has another separator."""
    marks = [mark for mark in ";\t|" if len(known) == 1 and mark in known[0]]
    return f"the columns of a csv file are separated by commas, and these seem to be by {marks[0]!r}" if marks else None


def _require_columns(rows: Rows, columns: Columns, source: str) -> None:
    """Raises UserError, naming the columns that no row has and how to map them."""
    known = list(map(str, rows.columns))
    missing = {name: column for name in columns.required if (column := getattr(columns, name)) not in known}
    if missing:
        wanted = ", ".join(map(repr, missing.values()))
        mapping = ", ".join(f"columns.{name}=COLUMN" for name in missing)
        fix = f"map {'it' if len(missing) == 1 else 'them'} with {mapping}"
        raise UserError(f"{source}: no column {wanted} among {', '.join(known)}; {_separator_fix(known) or fix}")
    for column in columns.further:
        if column not in known:
            raise UserError(
                f"{source}: no column {column!r}, which teacher.context or target names; {nearest(column, known)}"
            )
