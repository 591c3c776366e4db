"""Gradient checkpointing runs a block again in the backward pass; whatever is captured from it must not change."""

from collections.abc import Callable

import torch
from torch import Tensor

from phfcli.core.models.language_model import LanguageModel


def check_gradients_stay(student: LanguageModel, loss: Callable[[], Tensor]) -> None:
    """Compares the gradients of every trainable parameter without and with gradient checkpointing."""
    plain = _gradients(student, loss)
    student.causal.gradient_checkpointing_enable({"use_reentrant": False})
    checkpointed = _gradients(student, loss)
    assert len(plain) == len(checkpointed) == len(student.trainable())
    for a, b in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(a, b)


def _gradients(student: LanguageModel, loss: Callable[[], Tensor]) -> list[Tensor]:
    student.network.train()
    loss().backward()
    found = [p.grad.clone() for p in student.trainable().values() if p.grad is not None]
    student.network.zero_grad()
    return found
