"""Sorts tokens by what they are: a rule of their text, first match first."""

import re

KINDS = ("end", "think boundary", "digit", "operator", "word", "space and punctuation", "other")

_THINK = re.compile(r"</?think(?:ing)?>")
_OPERATORS = frozenset("+-*/=<>^%×÷·±≤≥≠\\{}_")


def token_kind(text: str, ends: bool) -> str:
    """The kind of a token from its text.

    ends: whether it ends a completion.
    """
    core = text.strip()
    if ends:
        return "end"
    if _THINK.search(core):
        return "think boundary"
    if any(character.isdigit() for character in core):
        return "digit"
    if any(character in _OPERATORS for character in core):
        return "operator"
    if any(character.isalpha() for character in core):
        return "word"
    return "space and punctuation" if not core or core.isprintable() else "other"
