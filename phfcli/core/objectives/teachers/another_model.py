"""What every teacher that is another model shares, wherever that model is computed: it is frozen, and reads the problem
alone, in its own tokens where those are others.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from phfcli.core.models.description import ModelDescription
from phfcli.core.models.passes import Batch, ReaderInput, Sample
from phfcli.core.models.token_alignment import TokenAlignment
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.types import Problem


class AnotherModel(Teacher, Protocol):
    """A teacher that is another model. With a tokenizer of its own it reads the same text in its own tokens."""

    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription: ...

    @property
    def context(self) -> int | None:
        """The longest sequence that it can read, in the student's tokens; None where its own are others."""
        return self.description.context if self.alignment is None else None

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return sample if self.alignment is None else self.alignment(sample, problem)

    def update(self) -> None:
        """Does nothing: this teacher does not follow the student."""
        return

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """A checkpoint keeps its name, with the settings, and not its weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing, because a checkpoint keeps nothing of this teacher."""
        return


def in_its_tokens(batch: Batch) -> tuple[ReaderInput, Batch]:
    """What such a teacher reads; where its tokens are others, only the states of the result are of use."""
    if batch.in_teacher_tokens is not None:
        return batch.in_teacher_tokens.student, batch.in_teacher_tokens
    assert batch.teacher is not None
    return batch.teacher, batch
