"""The errors that are shown as one line instead of a traceback, and text that is safe to print."""

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar


def printable(text: str) -> str:
    """The text with a replacement mark for each control character and each lone surrogate.

    So it may stand on a terminal, in a picture or on a page.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign for it; "-" where the share is not known."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign; "-" where it is not known."""
    return "-" if difference is None else f"{100 * difference:+.1f}"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of a difference of shares, in percentage points; "-" where there are none."""
    return "-" if low is None or high is None else f"{points(low)} to {points(high)}"


def with_error(share: float | None, stderr: float | None) -> str:
    """A share in percent with its standard error in points, or what is known of them."""
    parts = [*([] if share is None else [percent(share)]), *([] if stderr is None else [f"± {percent(stderr)}"])]
    return " ".join(parts) or "-"


def markdown_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as Markdown, line by line."""
    header, *body = [[markdown_cell(cell) for cell in row] for row in (columns, *rows)]
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body]]


def markdown_cell(cell: str) -> str:
    """The text escaped for Markdown, because names come from files."""
    plain = " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", plain)


def as_yaml(value: object) -> str:
    """A value as YAML has it, on one line."""
    import yaml

    return str(yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True)).strip()[1:-1]


T = TypeVar("T")
Name = TypeVar("Name", bound=str)


class UserError(Exception):
    """A mistake in the input: shown as one line that names the field or file and the fix; exit code 2."""


class MissingFileError(UserError):
    """A file that is to be read is not there."""


class UnreachableError(UserError):
    """The hub, which would have what is asked for, does not answer: what stands in it is not known to be wrong."""


def reached(get: Callable[[], T], gaps: list[str]) -> T | None:
    """What it gets, or None where the hub does not answer, which is then one of the gaps of a plan."""
    try:
        return get()
    except UnreachableError as error:
        gaps.append(str(error))
        return None


class FaultError(Exception):
    """A fault outside the input and the program, such as a full disk: shown as one line; exit code 1."""


# of an OSError that the disk is to blame for, not the program: full, over quota, read-only, not ours, too large, broken
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the advice that libraries print below it."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    announced = lines[0].endswith(":") and len(lines) > 1  # what it is follows
    return f"{lines[0]} {lines[1]}" if announced else lines[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an error about an unknown name: the one with the same letters, else the closest, or all of them."""
    names = sorted(known)
    turned = [name for name in names if sorted(name) == sorted(word)]  # opds is opsd, though difflib finds opd nearer
    close = turned or difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"


def one_of(label: str, word: str, known: Sequence[Name]) -> Name:
    """The one of the known names that a word is. Raises UserError, which begins with the label, for another word."""
    for name in known:
        if name == word:
            return name
    raise UserError(f"{label}: {word!r} is unknown; {nearest(word, known)}")
