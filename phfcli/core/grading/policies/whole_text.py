r"""Judges a text as math-verify does by itself: it looks for the answer anywhere, and parses gold and text alike.

Runs in a worker only, because it may never end. math-verify's plain-expression extractor evaluates Python, but only
what its pattern lets through: digits, operators and brackets.
"""

import re

from math_verify import parse, verify

_NUMBER = re.compile(r"\s*-?[0-9][0-9,.]*\s*")
_MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed")  # says itself where its mathematics is


def judge(gold_text: str, text: str) -> str:
    """The verdict, and behind a space what math-verify has read of the text. May raise, hang or crash."""
    gold = parse(_delimited(gold_text), parsing_timeout=None)
    if not gold:
        return "bad_gold"
    answer = parse(text, parsing_timeout=None)
    if not answer:
        return "no_answer"
    verdict = "equal" if verify(gold, answer, timeout_seconds=None) else "different"
    return f"{verdict} {answer[-1]}"


def _delimited(gold: str) -> str:
    """A gold as its README asks for it: a formula stands between dollar signs."""
    return gold if _NUMBER.fullmatch(gold) or _MARKED.search(gold) else f"${gold}$"
