"""Grading of completions against gold answers: docs/grading.md states every policy.

In come pairs of a gold answer and a completion; out comes a status for each, in order. Answers are judged in worker
processes that are killed when they overrun, and a grader's own failure is a status, never a wrong answer. Nothing that
a model has written is executed.
"""

from phfcli.core.grading.grader import Grade, Grader, Grading, Rule, Status
from phfcli.core.grading.latex import last_box
from phfcli.core.grading.policies import build_grader

__all__ = ["Grade", "Grader", "Grading", "Rule", "Status", "build_grader", "last_box"]
