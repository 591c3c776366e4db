"""The teachers that are another model, and the bridge between its hidden states and the student's."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import Projector
from phfcli.core.models.architecture import pair_layers
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, Sample, run_pass
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import TokenAlignment, same_tokens
from phfcli.core.models.trial import check_computation
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.storage.tensors import open_tensors, read_tensors, write_tensors
from phfcli.core.types import Problem


@dataclass(frozen=True)
class ExternalTeacher(Teacher):
    """Another model, in this process. With a tokenizer of its own it reads the same text in its own tokens."""

    model: LanguageModel
    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription:
        return self.model.description

    @property
    def day(self) -> datetime.date | None:
        """The day that a chat template of its own says."""
        return self.alignment.prompts.day if self.alignment else None

    @property
    def context(self) -> int | None:
        """The longest sequence that it can read, in the student's tokens; None where its own are others."""
        return self.description.context if self.alignment is None else None

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return sample if self.alignment is None else self.alignment(sample, problem)

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """Its own pass; where its tokens are others, only the states of the result are of use."""
        own = pair_layers(layers, len(student.blocks), len(self.model.blocks))
        if batch.in_teacher_tokens is not None:
            return run_pass(self.model, batch.in_teacher_tokens.student, batch.in_teacher_tokens, own)
        assert batch.teacher is not None
        return run_pass(self.model, batch.teacher, batch, own)

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


def load_external(
    config: TrainConfig, student: ModelDescription, today: datetime.date | None = None
) -> ExternalTeacher:
    """The model that config.teacher names, on the student's device and in its precision.

    Args:
        today: the day for a template of its own that reads the clock.

    Raises:
        UserError: where it cannot be found or read.
    """
    assert config.teacher.model is not None
    model = load_model(config.model_copy(update={"model": config.teacher.model}))
    check_computation(model)
    model.network.requires_grad_(False)
    if same_tokens(student.tokenizer, model.description.tokenizer):
        return ExternalTeacher(model, None)
    own = config.prompt.model_copy(update={"chat_template": None})
    prompts = build_prompts(model.description.tokenizer, own, vocabulary=model.description.vocabulary, today=today)
    return ExternalTeacher(model, TokenAlignment(student, model.description, prompts))


_ABOUT = "phfcli"  # the key in the header
_NAMES = ("layers", "student.weight", "student.mean", "teacher.weight", "teacher.mean")


@dataclass(frozen=True)
class Bridge:
    """Two projectors to a common space of rank r; neither trains."""

    layers: tuple[int, ...]
    student: Projector
    teacher: Projector
    about: Mapping[str, Any]
    path: Path | None = None  # where it was read from

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both states [K, B, m, .] in the common space, [K, B, m, r]."""
        return self.student(student), self.teacher(teacher)


def save_bridge(path: Path, bridge: Bridge) -> None:
    """Writes the file at once or not at all."""
    tensors = {
        "layers": torch.tensor(bridge.layers),
        "student.weight": bridge.student.weight,
        "student.mean": bridge.student.mean,
        "teacher.weight": bridge.teacher.weight,
        "teacher.mean": bridge.teacher.mean,
    }
    write_tensors(path, tensors, {_ABOUT: json.dumps(dict(bridge.about))})


def load_bridge(path: Path) -> Bridge:
    """Raises UserError for a file that is missing, damaged or holds something else."""
    tensors, about = read_tensors(path), _read_about(path)
    if any(name not in tensors for name in _NAMES) or not isinstance(about, dict):
        raise UserError(f"{path}: not a bridge; make one with `phf bridge fit`")
    layers, *parts = (tensors[name] for name in _NAMES)
    return Bridge(tuple(layers.tolist()), Projector(*parts[:2]), Projector(*parts[2:]), about, path)


def _read_about(path: Path) -> Any:
    with open_tensors(path) as file:
        header = file.metadata() or {}
    try:
        return json.loads(header.get(_ABOUT, "null"))
    except json.JSONDecodeError:
        return None
