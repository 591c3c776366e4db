"""The contract between loop and teacher."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample
from phfcli.core.types import Problem


class Teacher(Protocol):
    """A model that reads rollouts as the teacher."""

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        """The sample with what this teacher needs to read it, such as its own tokens."""
        ...

    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """The teacher's pass, without a gradient, over its own layers that lie as deep as the student's `layers`."""
        ...

    def update(self) -> None:
        """Called after each optimizer step."""
        ...

    def metrics(self) -> dict[str, float]:
        """The teacher's part of a step's metrics."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps of the teacher."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...
