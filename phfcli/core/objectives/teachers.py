"""The teachers that are the student itself: its average, its base, its present weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from phfcli.core.config import TeacherSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, run_pass
from phfcli.core.models.sharding import spread_like, total
from phfcli.core.types import Problem


@runtime_checkable
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


_DECAY = {"fixed": 1.0, "online": 0.0}
OWN = "phf."  # begins the names of what a teacher's file holds beside averages; no parameter is called so
_STEPS = f"{OWN}steps"


class AveragedTeacher:
    """Keeps theta_bar <- rho theta_bar + (1 - rho) theta of the trainable parameters, from theta_bar = theta on.

    rho = 0.999 is the published EMA teacher. rho = 1 is the initial policy, and rho = 0 is the student itself.
    The frozen part of the model is shared, so with LoRA the teacher costs one more adapter; of no parameters, nothing.
    """

    def __init__(self, trainable: Mapping[str, nn.Parameter], decay: float) -> None:
        self._student = dict(trainable)
        self._average = {name: p.detach().clone() for name, p in trainable.items()}
        self._decay = decay

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Puts the teacher's weights into the model while the context lasts. Only for passes without a gradient."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        """It reads the student's own tokens."""
        return sample

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """The student's model, under these weights, on the privileged prompt."""
        assert batch.teacher is not None
        with self.weights():
            read = run_pass(student, batch.teacher, batch, layers)
            if not read.head.requires_grad:
                return read
            # a head that trains has an average too, which after this is no longer in the student's parameter
            return replace(read, head=read.head.clone() if self._numbers_move else read.head.detach())

    @torch.no_grad()
    def update(self) -> None:
        """Follows the student; to be called after each optimizer step."""
        if self._decay == 1.0:
            return  # the initial policy stays
        student = [p.detach() for p in self._student.values()]
        means = list(self._average.values())
        if student:
            torch._foreach_lerp_(means, student, 1.0 - self._decay)

    @torch.no_grad()
    def distance(self) -> float:
        """The Euclidean distance between the teacher's and the student's parameters."""
        pairs = zip(self._average.values(), self._student.values(), strict=True)
        return math.sqrt(total([(mean - p).square().sum() for mean, p in pairs]))

    def metrics(self) -> dict[str, float]:
        return {"teacher_distance": self.distance()} if self._average else {}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raises KeyError if a parameter is missing."""
        for name, mean in self._average.items():
            mean.copy_(spread_like(mean, state[name]))

    @property
    def _numbers_move(self) -> bool:
        """Whether two storages cannot change places: FSDP keeps a view of a part of a weight."""
        return any(isinstance(mean, DTensor) for mean in self._average.values())

    def _swap(self) -> None:
        if not self._numbers_move:
            for name, p in self._student.items():
                p.data, self._average[name] = self._average[name], p.data
            return
        for name, p in self._student.items():
            mean = self._average[name]
            kept = mean.clone()
            mean.copy_(p.detach())
            p.detach().copy_(kept)


class SyncedTeacher(AveragedTeacher):
    """The student as it was after the last step that is a multiple of `every`, or at the start."""

    def __init__(self, trainable: Mapping[str, nn.Parameter], every: int) -> None:
        super().__init__(trainable, decay=0.0)
        self._every, self._steps = every, 0

    def update(self) -> None:
        self._steps += 1
        if self._steps % self._every == 0:
            super().update()

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {_STEPS: torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._steps = int(state[_STEPS])


def averages_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged parameters in the state of a teacher, whatever else it holds."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(OWN)}


def build_teacher(trainable: Mapping[str, nn.Parameter], settings: TeacherSettings) -> AveragedTeacher:
    """The teacher the settings ask for: ema, fixed (the initial policy), online (the student itself) or synced."""
    if settings.kind == "synced" and settings.every is not None:
        return SyncedTeacher(trainable, settings.every)
    return AveragedTeacher(trainable, _DECAY.get(settings.kind, settings.decay))


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
        if not layers:
            return outputs
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


def build_own_teacher(trainable: Mapping[str, nn.Parameter], settings: TeacherSettings) -> Teacher:
    """The teacher that is the student itself: under one average, or with the hidden states of another source."""
    teacher = build_teacher(trainable, settings)
    if settings.states == "same":
        return teacher
    if settings.states == "unprivileged":
        return CoupledTeacher(teacher, Unprivileged(teacher))
    states = TeacherSettings(kind=settings.states, decay=settings.decay)
    return CoupledTeacher(teacher, build_teacher(trainable, states))


def copies_of(settings: TeacherSettings) -> int:
    """How often the teacher keeps the trained parameters."""
    return 1 if settings.states in ("same", "unprivileged") else 2


def build_base(model: LanguageModel) -> Teacher:
    """The model without its adapter; or, where all weights train, a copy of them, to be taken before the first step."""
    trained = model.trainable()
    # an adapter whose second factor is zero adds nothing
    factors = {name: p for name, p in trained.items() if ".lora_B." in name}
    base = AveragedTeacher(factors or trained, decay=1.0)
    base.load_state_dict({name: torch.zeros_like(p) for name, p in factors.items()} or base.state_dict())
    return Unprivileged(base)
