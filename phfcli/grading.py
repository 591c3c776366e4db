"""The public face of the grader: `from phfcli.grading import Grader, Grade, Status`."""

from phfcli.core.grading import Grade, Grader, Status, last_box

__all__ = ["Grade", "Grader", "Status", "last_box"]
