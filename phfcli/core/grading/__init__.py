"""Grading of completions against gold answers; docs/grading.md states every policy.

A grader takes pairs of a gold answer and a completion and returns a status for each pair, in order. Worker processes
judge the answers; a worker that exceeds the time limit is killed. A failure of the grader is a status of its own, never
a wrong answer. Text that a model has written is never executed.
"""

from phfcli.core.grading.grader import Grade, Grader, Grading, Rule, Status
from phfcli.core.grading.latex import last_box
from phfcli.core.grading.policies import build_grader

__all__ = ["Grade", "Grader", "Grading", "Rule", "Status", "build_grader", "last_box"]
