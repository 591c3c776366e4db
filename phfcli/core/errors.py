"""Errors that are shown as one line instead of a traceback, and the formats of numbers and text in messages."""

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar


def printable(text: str) -> str:
    """The text with a replacement character for each control character and lone surrogate.

    It is then safe on a terminal, in a picture and on a page.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


_SECRETS = re.compile(
    r"(:/{1,2})[^\s/\"']+(?=@)"  # name and password in a URL
    r"|(?<=\bBearer )\S{4,}|(?<=\bBasic )\S{8,}|\bhf_\w{4,}|\bsk-[\w-]{8,}"
    r"|([?&;](?:token|api_key|apikey|key|signature)=)[^\s&\"']+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)
_SHORTEST_SECRET = 6  # characters; a shorter one would blot out ordinary words


def masked(text: str) -> str:
    """The text with stars in place of every secret: passwords in URLs, tokens, and what the environment keeps as such.

    A server may echo the headers that it received, and a library the address that it was given.
    """
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value.strip()) >= _SHORTEST_SECRET:
            text = text.replace(value.strip(), "***")
    return _SECRETS.sub(lambda match: f"{match[1] or match[2] or ''}***", text)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, without a percent sign; "-" for None."""
    return "-" if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points, with its sign; "-" for None."""
    return "-" if difference is None else f"{100 * difference:+.1f}"


def interval(low: float | None, high: float | None) -> str:
    """The bounds of a difference of shares in percentage points; "-" for None."""
    return "-" if low is None or high is None else f"{points(low)} to {points(high)}"


def with_error(share: float | None, stderr: float | None) -> str:
    """A share in percent with its standard error in points; a None is left out, and "-" stands for two."""
    parts = [*([] if share is None else [percent(share)]), *([] if stderr is None else [f"± {percent(stderr)}"])]
    return " ".join(parts) or "-"


def markdown_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as Markdown, line by line."""
    header, *body = [[markdown_cell(cell) for cell in row] for row in (columns, *rows)]
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body]]


def markdown_cell(cell: str) -> str:
    """The text escaped for Markdown: names come from files and may hold anything."""
    plain = " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", plain)


def as_yaml(value: object) -> str:
    """A value as YAML, on one line."""
    import yaml

    return str(yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True)).strip()[1:-1]


T = TypeVar("T")
Name = TypeVar("Name", bound=str)


class UserError(Exception):
    """A mistake in the input: shown as one line that names the setting or file and the fix; exit code 2."""


class MissingFileError(UserError):
    """A file that should be read is missing."""


class UnreachableError(UserError):
    """The hub does not answer, so whether it has what was asked for is not known."""


def reached(get: Callable[[], T], gaps: list[str]) -> T | None:
    """The result of `get`; None where the hub does not answer, and the error is added to `gaps`."""
    try:
        return get()
    except UnreachableError as error:
        gaps.append(str(error))
        return None


class FaultError(Exception):
    """A fault outside the input and the program, such as a full disk: shown as one line; exit code 1.

    alone: only this one of several processes has met it, so it has to show the line itself.
    """

    def __init__(self, message: str, alone: bool = False) -> None:
        super().__init__(message)
        self.alone = alone


# errnos for which the disk is to blame: full, over quota, read-only, no permission, file too large, broken
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the advice that libraries print below it."""
    lines = [line.strip() for line in masked(str(error)).strip().splitlines()]
    if not lines:
        return type(error).__name__
    announced = lines[0].endswith(":") and len(lines) > 1  # the message follows
    return f"{lines[0]} {lines[1]}" if announced else lines[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the known one with the same letters, else the closest, else all known ones."""
    names = sorted(known)
    anagrams = [
        name for name in names if sorted(name) == sorted(word)
    ]  # for opds this is opsd, where difflib finds opd
    close = anagrams or difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(names)}" if names else "there is none to choose from"


def one_of(label: str, word: str, known: Sequence[Name]) -> Name:
    """The word, if it is a known name. Raises UserError, which begins with the label, if it is not."""
    for name in known:
        if name == word:
            return name
    raise UserError(f"{label}: {word!r} is unknown; {nearest(word, known)}")
