"""Heads that are more than a product: the fused losses against the plain ones in float64, value and gradients."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from phfcli.losses import Head, divergence, fused_divergence, token_logprobs

N, V, D = 7, 11, 5
SHAPES: dict[str, dict[str, Any]] = {
    "bias": {"bias": True},
    "scale": {"scale": 0.4},
    "soft cap": {"soft_cap": 1.5},
    "all": {"bias": True, "scale": 2.5, "soft_cap": 3.0},
}
CLIPS: list[dict[str, Any]] = [{}, {"clip": 0.02}, {"clip": 0.1, "clip_mode": "token"}]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(shape: dict[str, Any], width: int = D, seed: int = 2) -> Head:
    bias = drawn(V, seed=seed + 50).requires_grad_() if shape.get("bias") else None
    return Head(drawn(V, width, seed=seed).requires_grad_(), **{**shape, "bias": bias})


def by_hand(head: Head, hidden: Tensor) -> Tensor:
    """The formulas in the module's docstring, once more."""
    logits = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    logits = logits * head.scale
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [hidden, head.weight, *([] if head.bias is None else [head.bias])]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", ["jsd", "forward_kl", "reverse_kl"])
def test_the_fused_divergence_is_the_plain_one(shape: dict[str, Any], clip: dict[str, Any], kind: Any) -> None:
    student, teacher, head = drawn(N, D, seed=0).requires_grad_(), drawn(N, D, seed=1), make(shape)
    weights = torch.linspace(0, 2, N, dtype=torch.float64)
    for top_k, chunk in itertools.product((None, 3), (1, 3, None)):
        options = {"kind": kind, "temperature": 1.1, "top_k": top_k, **clip}
        fused = fused_divergence(student, teacher, head, weights, chunk_size=chunk, **options)
        plain = divergence(by_hand(head, student), by_hand(head, teacher).detach(), **options) @ weights
        torch.testing.assert_close(fused, plain)
        inputs = leaves(student, head)
        torch.testing.assert_close(torch.autograd.grad(3 * fused, inputs), torch.autograd.grad(3 * plain, inputs))


@pytest.mark.parametrize(("own", "other"), [("all", "scale"), ("bias", "soft cap"), ("soft cap", "bias")])
def test_student_and_teacher_may_have_heads_of_their_own(own: str, other: str) -> None:
    student, teacher = drawn(N, D, seed=0).requires_grad_(), drawn(N, D + 2, seed=1)
    head, teacher_head = make(SHAPES[own]), make(SHAPES[other], D + 2, seed=9)
    fused = fused_divergence(student, teacher, head, torch.ones(N), teacher_head=teacher_head, chunk_size=2)
    plain = divergence(by_hand(head, student), by_hand(teacher_head, teacher).detach()).sum()
    torch.testing.assert_close(fused, plain)
    inputs = leaves(student, head)
    torch.testing.assert_close(torch.autograd.grad(fused, inputs), torch.autograd.grad(plain, inputs))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_the_log_probabilities_are_the_plain_ones(shape: dict[str, Any], chunk: int | None) -> None:
    hidden, head = drawn(N, D, seed=0).requires_grad_(), make(shape)
    tokens = torch.arange(N) % V
    fused = token_logprobs(hidden, head, tokens, temperature=0.7, chunk_size=chunk)
    plain = (by_hand(head, hidden) / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(fused, plain)
    into = drawn(N, seed=4)
    inputs = leaves(hidden, head)
    torch.testing.assert_close(torch.autograd.grad(fused, inputs, into), torch.autograd.grad(plain, inputs, into))


def test_a_bare_weight_is_a_plain_head() -> None:
    student, teacher, head = drawn(N, D, seed=0), drawn(N, D, seed=1), make({}).detach()
    assert head.plain
    one, other = (fused_divergence(student, teacher, h, torch.ones(N)) for h in (head.weight, head))
    assert torch.equal(one, other)


def test_entries_and_precision() -> None:
    head = make(SHAPES["all"])
    hidden = drawn(N, D, seed=0)
    torch.testing.assert_close(head.first(4).logits(hidden), by_hand(head, hidden)[:, :4])
    assert len(head.first(4)) == 4
    assert head.requires_grad
    assert not head.detach().requires_grad
    half = Head(torch.zeros(V, D), scale=2.0).to(torch.bfloat16).finish(torch.zeros(2, V, dtype=torch.bfloat16))
    assert half.dtype == torch.float32  # what stands behind the product is in the working precision


@pytest.mark.parametrize("shape", [{"soft_cap": 0.0}, {"bias": torch.zeros(V + 1)}])
def test_an_impossible_head_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a head's"):
        Head(torch.zeros(V, D), **shape)
