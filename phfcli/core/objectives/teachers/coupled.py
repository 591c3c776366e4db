"""The coupling ablation: the hidden target is another source's than the output target (PHF, section 3 and 4).

PHF takes both from one pass of one teacher. Here outputs are one teacher's, and states those of the same weights on the
student's own prompt, or of the student's other averages on the privileged one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from phfcli.core.config import TeacherSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.objectives.teachers.ema import OWN, build_teacher
from phfcli.core.types import Problem

_STATES = f"{OWN}states."  # before the names of the second teacher's tensors


@dataclass(frozen=True)
class Unprivileged:
    """A teacher that reads the student's own prompt. Its weights are another's, who looks after them."""

    owner: Teacher

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return sample

    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        return self.owner.run_pass(student, replace(batch, teacher=batch.student), layers)

    def update(self) -> None:
        """Does nothing: the owner does it."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing: the owner does it."""


@dataclass(frozen=True)
class CoupledTeacher:
    """One teacher's outputs beside another one's hidden states, from two passes."""

    outputs: Teacher
    states: Teacher

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return self.states.prepare(self.outputs.prepare(sample, problem), problem)

    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        outputs = self.outputs.run_pass(student, batch, ())
        read = self.states.run_pass(student, batch, layers)
        return replace(outputs, states=read.states, final=read.final, layers=read.layers)

    def update(self) -> None:
        self.outputs.update()
        self.states.update()

    def metrics(self) -> dict[str, float]:
        return self.outputs.metrics() | {f"states_{name}": value for name, value in self.states.metrics().items()}

    def state_dict(self) -> dict[str, Tensor]:
        own = {_STATES + name: tensor for name, tensor in self.states.state_dict().items()}
        return self.outputs.state_dict() | own

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError if a parameter is missing."""
        self.outputs.load_state_dict(state)
        own = {name.removeprefix(_STATES): tensor for name, tensor in state.items() if name.startswith(_STATES)}
        self.states.load_state_dict(own)


def build_own_teacher(trainable: Mapping[str, nn.Parameter], settings: TeacherSettings, away: bool = False) -> Teacher:
    """The teacher that is the student itself: under one average, or with the hidden states of another source.

    away: between passes its weights are in the machine's memory.
    """
    teacher = build_teacher(trainable, settings, away)
    if settings.states == "same":
        return teacher
    if settings.states == "unprivileged":
        return CoupledTeacher(teacher, Unprivileged(teacher))
    return CoupledTeacher(
        teacher, build_teacher(trainable, TeacherSettings(kind=settings.states, decay=settings.decay), away)
    )


def copies_of(settings: TeacherSettings) -> int:
    """How often the teacher keeps the trained parameters."""
    return 1 if settings.states in ("same", "unprivileged") else 2
