"""Grading of completions against gold answers: see docs/grading.md for every policy."""

from phfcli.core.grading.boxes import last_box
from phfcli.core.grading.grader import Grade, Grader, Status

__all__ = ["Grade", "Grader", "Status", "last_box"]
