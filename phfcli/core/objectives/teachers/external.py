"""The teacher that is another model: loaded once, frozen, and without the reference solution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.models.architecture.self_check import check_computation
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.layer_choice import pair_layers
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, Sample, run_pass
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import TokenAlignment, same_tokens
from phfcli.core.types import Problem


@dataclass(frozen=True)
class ExternalTeacher:
    """Another model. With a tokenizer of its own it reads the same text in its own tokens."""

    model: LanguageModel
    alignment: TokenAlignment | None

    @property
    def context(self) -> int | None:
        """The longest sequence that it can read, in the student's tokens; None where its own are others."""
        return self.model.description.context if self.alignment is None else None

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

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """A checkpoint keeps its name, with the settings, and not its weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing, because a checkpoint keeps nothing of this teacher."""


def load_external(config: TrainConfig, student: ModelDescription) -> ExternalTeacher:
    """The model that config.teacher names, on the student's device and in its precision.

    Raises:
        UserError: where it cannot be found or read.
    """
    assert config.teacher.model is not None
    model = load_model(config.model_copy(update={"model": config.teacher.model}))
    check_computation(model)
    model.network.requires_grad_(False)
    if same_tokens(student.tokenizer, model.description.tokenizer):
        return ExternalTeacher(model, None)
    prompts = build_prompts(model.description.tokenizer, config.prompt.model_copy(update={"chat_template": None}))
    return ExternalTeacher(model, TokenAlignment(student, model.description, prompts))
