"""The teacher that is another model: loaded once, frozen, and without the reference solution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from phfcli.core.config import TrainConfig
from phfcli.core.models.architecture.self_check import check_computation
from phfcli.core.models.description import ModelDescription, load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.layer_choice import pair_layers
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, run_pass
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import TokenAlignment, same_tokens
from phfcli.core.objectives.teachers.another_model import AnotherModel, in_its_tokens
from phfcli.core.objectives.teachers.served import ServedTeacher, load_served


@dataclass(frozen=True)
class ExternalTeacher(AnotherModel):
    """Another model, in this process."""

    model: LanguageModel
    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription:
        return self.model.description

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """Its own pass."""
        own = pair_layers(layers, len(student.blocks), len(self.model.blocks))
        reader, read = in_its_tokens(batch)
        return run_pass(self.model, reader, read, own)


def load_external(config: TrainConfig, student: ModelDescription) -> ExternalTeacher | ServedTeacher:
    """The model that config.teacher names, in the student's precision: on its device, or on config.teacher.server.

    Raises:
        UserError: where it cannot be found or read, or the server does not give what is needed of it.
    """
    assert config.teacher.model is not None
    settings = config.model_copy(update={"model": config.teacher.model})
    if config.teacher.server is not None:
        description = load_description(settings.model)
        return load_served(settings, config.teacher.server, description, _alignment(config, student, description))
    model = load_model(settings)
    check_computation(model)
    model.network.requires_grad_(False)
    return ExternalTeacher(model, _alignment(config, student, model.description))


def _alignment(config: TrainConfig, student: ModelDescription, teacher: ModelDescription) -> TokenAlignment | None:
    """From the student's tokens to the teacher's, where those are others."""
    if same_tokens(student.tokenizer, teacher.tokenizer):
        return None
    prompts = build_prompts(teacher.tokenizer, config.prompt.model_copy(update={"chat_template": None}))
    return TokenAlignment(student, teacher, prompts)
