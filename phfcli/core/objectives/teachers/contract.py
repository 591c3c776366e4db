"""What the training loop asks of a teacher, whichever it is."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample
from phfcli.core.types import Problem


class Teacher(Protocol):
    """What the loop asks of a teacher, whichever it is."""

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        """The sample with whatever this teacher needs to read it."""
        ...

    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """Its pass without grad; `layers` are the student's, and its own are those that lie as deep."""
        ...

    def update(self) -> None:
        """Called after each optimizer step."""
        ...

    def metrics(self) -> dict[str, float]:
        """What a step's metrics say of it."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
