"""What a check has found."""

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        part: of the machine or the program.
        found: what was seen, with its figures.
        fix: what to do, in one sentence; empty where nothing is to be done.
        figures: the same for a program to read.
    """

    part: str
    state: State
    found: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def ok(part: str, found: str, **figures: Any) -> Finding:
    return Finding(part, "ok", found, figures=figures)


def warning(part: str, found: str, fix: str, **figures: Any) -> Finding:
    return Finding(part, "warning", found, fix, figures)


def failed(part: str, found: str, fix: str, **figures: Any) -> Finding:
    return Finding(part, "failed", found, fix, figures)
