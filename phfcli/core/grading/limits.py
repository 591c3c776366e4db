r"""Refuses texts whose parse or value would take too long, recognised by their spelling.

These checks only save time. A worker that overruns is killed all the same, and a refused answer is an error of the
grader, never a wrong answer.
"""

import re

MAX_CHARS = 2000
MAX_DEPTH = 20  # the parser's time doubles every few levels
MAX_FACTORIAL = 5000
MAX_TOWER = 10_000  # of c^d in b^{c^d}

_OPEN = r"[{(\s]*"
_TOWER = re.compile(rf"(?=(?<![0-9])[0-9]+[)}}\s]*\^{_OPEN}([0-9]+)\s*\^{_OPEN}([0-9]+))")
_EXPONENT = re.compile(r"\^[{(\s+-]*[0-9]{6,}")
_FACTORIAL = re.compile(r"([0-9]+)[)}\s]*!")
_GROUP_FACTORIAL = re.compile(r"\^[^!+]*[)}]\s*!|![)}\s]*!")
_DIGITS = re.compile(r"[0-9]{1000}")
_NEIGHBOURS = re.compile(r"(?<![\w.}\\])[0-9][0-9.]*\s+[0-9.]")
_TAKES_ARGUMENTS = re.compile(r"(?:[_^]|\\(?:frac|binom|sqrt|log))\s*$")


class Refused(Exception):  # noqa: N818 - a refusal is an outcome, not a fault
    """The text is not evaluated; the message says why."""


def check(text: str) -> None:
    """Raises Refused for a text (normalised) that should not reach the parser."""
    if _depth(text) > MAX_DEPTH:
        raise Refused("nested too deeply")
    if _DIGITS.search(text):
        raise Refused("too many digits")
    if _EXPONENT.search(text) or any(_too_tall(int(c), int(d)) for c, d in _TOWER.findall(text)):
        raise Refused("an exponent too large")
    if _GROUP_FACTORIAL.search(text) or any(_above(n, MAX_FACTORIAL) for n in _FACTORIAL.findall(text)):
        raise Refused("a factorial too large")
    for match in _NEIGHBOURS.finditer(text):
        # the parser reads "6 30" as the mixed number 36
        if not _TAKES_ARGUMENTS.search(text, 0, match.start()):
            raise Refused("two numbers side by side")


def _above(digits: str, limit: int) -> bool:
    return len(digits) > 12 or int(digits) > limit


def _too_tall(base: int, exponent: int) -> bool:
    return exponent > 20 or base**exponent > MAX_TOWER if base > 1 else False


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[{}()\[\]]", text):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    return deepest
