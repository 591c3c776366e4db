"""Tiles of a long sequence give the same states and gradients, and hold less of the MLP at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from phfcli.core.config import LoraSettings
from phfcli.core.models.kernels import TILE, checkpoint_gradients
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import add_lora
from phfcli.core.training.pass_memory import Allocations

LENGTH = TILE + 30


def gradients(model: LanguageModel, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.network.train()
    out = model.backbone(input_ids=ids).last_hidden_state
    out.square().sum().backward()
    taken = {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}
    model.network.zero_grad()
    return out.detach(), taken


def adapted(random_model: Callable[..., LanguageModel], **sizes: int) -> LanguageModel:
    model = add_lora(random_model(max_position_embeddings=4 * TILE, **sizes), LoraSettings(r=4, alpha=8), seed=1)
    with torch.no_grad():
        for p in model.trainable().values():
            p.copy_(0.1 * torch.randn_like(p))
    return model


def test_values_and_gradients_are_the_same(random_model: Callable[..., LanguageModel]) -> None:
    model = adapted(random_model)
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH) % len(model.output_head)
    out, before = gradients(model, ids)
    checkpoint_gradients(model.causal)
    again, after = gradients(model, ids)
    torch.testing.assert_close(again, out, rtol=1e-9, atol=1e-9)
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-7, atol=1e-9)


def test_a_short_sequence_is_computed_as_before_to_the_bit(random_model: Callable[..., LanguageModel]) -> None:
    model = adapted(random_model)
    ids = torch.arange(40)[None] % len(model.output_head)
    out, before = gradients(model, ids)
    checkpoint_gradients(model.causal)
    again, after = gradients(model, ids)
    assert torch.equal(again, out)
    assert all(torch.equal(after[name], gradient) for name, gradient in before.items())


def test_the_mlp_of_a_long_sequence_is_never_held_whole(random_model: Callable[..., LanguageModel]) -> None:
    """With an MLP of 40 times the model's width, what a whole sequence makes of it would be most of the memory."""
    model = adapted(random_model, intermediate_size=40 * 32)
    ids = torch.arange(4 * TILE - 1)[None] % len(model.output_head)
    checkpoint_gradients(model.causal)
    model.network.train()
    with Allocations() as step:
        model.backbone(input_ids=ids).last_hidden_state.sum().backward()
    one = ids.numel() * 40 * 32 * 8  # bytes: gate, up, or their product, of the whole sequence
    assert step.peak < 2.5 * one
