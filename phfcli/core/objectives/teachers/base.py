"""The base: the model as it was before any training, which reads the student's own prompts."""

import torch

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.objectives.teachers.coupled import Unprivileged
from phfcli.core.objectives.teachers.ema import AveragedTeacher


def build_base(model: LanguageModel) -> Teacher:
    """The model without its adapter; or, where all weights train, a copy of them, to be taken before the first step."""
    trained = model.trainable()
    # an adapter whose second factor is zero adds nothing
    factors = {name: p for name, p in trained.items() if ".lora_B." in name}
    base = AveragedTeacher(factors or trained, decay=1.0)
    base.load_state_dict({name: torch.zeros_like(p) for name, p in factors.items()} or base.state_dict())
    return Unprivileged(base)
