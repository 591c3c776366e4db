"""Metrics of whole completions."""

from collections.abc import Sequence

_GRAM = 8  # tokens


def repetition(ids: Sequence[int]) -> float:
    """The share of a completion's runs of eight tokens that it has written before; 0 for a shorter one."""
    runs = [tuple(ids[start : start + _GRAM]) for start in range(len(ids) - _GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_answers(answers: Sequence[str | None], group: int) -> float:
    """How many different answers a problem's completions have, mean over problems; `group` completions are one's."""
    groups = [set(answers[start : start + group]) - {None} for start in range(0, len(answers), group)]
    return sum(map(len, groups)) / len(groups)
