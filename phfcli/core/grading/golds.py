r"""Reads gold answers out of the cells of a data set, and tells which of them are no plausible answers.

A gold such as "The answer is 87." would be read as a product of letters, and every right completion would be wrong.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phfcli.core.errors import UserError
from phfcli.core.grading.boxes import last_box
from phfcli.core.grading.units import canonical
from phfcli.core.names import GoldForm

_NUMBER = re.compile(r"-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?(?:/[0-9]+)?")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}")
_LONGEST = 200  # characters of a plausible gold answer
_MOST_WORDS = 6  # of an answer that is text
_FUNCTIONS = frozenset(
    {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "infinity", "infty", "arcsin", "arccos", "arctan"}
    | {"sinh", "cosh", "tanh", "and", "or", "mod", "numpy", "math", "sympy", "percent"}
    | {"unit", "units", "integer", "integers", "number", "numbers"}
)


@dataclass(frozen=True)
class Doubt:
    """Why a gold is no plausible answer, and the form of gold that would mend it, if one would."""

    reason: str
    form: GoldForm | None


def last_number(text: str) -> str:
    """The last number of a text, without thousands commas; empty if there is none."""
    found = _NUMBER.findall(text)
    return found[-1].replace(",", "") if found else ""


def after_hashes(text: str) -> str:
    """What follows the last ####, without thousands commas, as GSM8K writes its answers."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.rpartition("####")[2].strip())


GOLD_FORMS: dict[GoldForm, Callable[[str], str]] = {
    "as-is": str.strip,
    "last-box": lambda text: last_box(text) or "",
    "after-hashes": after_hashes,
    "last-number": last_number,
}


def doubt(gold: str) -> Doubt | None:
    """What makes a gold implausible, or None for a plausible one."""
    if "####" in gold:
        return Doubt("it holds ####", "after-hashes")
    if "\\boxed" in gold:
        return Doubt("it holds a \\boxed", "last-box")
    if len(gold) > _LONGEST or "\n" in gold.strip():
        return Doubt("it is as long as a solution", "last-number")
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", gold)) if word.lower() not in _FUNCTIONS]
    words = [word for word in words if canonical(word) is None]
    if words and any(character.isdigit() for character in gold):
        return Doubt("it has words beside its number", "last-number")
    return Doubt("it is a sentence", None) if len(words) > _MOST_WORDS else None


def check_plausible(golds: Sequence[str], source: str) -> str | None:
    """A warning where some golds are implausible, or None.

    Raises:
        UserError: where most of them are.
    """
    doubts = [(gold, found) for gold in golds if (found := doubt(gold)) is not None]
    if not doubts:
        return None
    gold, first = doubts[0]
    shown = gold if len(gold) <= 60 else f"{gold[:60]}..."
    fix = f"read them with --set gold={first.form}" if first.form else "give a column of short answers"
    message = (
        f"{source}: {len(doubts)} of {len(golds)} gold answers are not plausible answers, such as {shown!r} "
        f"({first.reason}): right completions would be graded wrong; {fix}"
    )
    if 2 * len(doubts) > len(golds):
        raise UserError(message)
    return message
