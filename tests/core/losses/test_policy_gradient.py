"""Advantages, the clipped surrogate, and OPD's sampled form, against plain references."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from largest import Largest
from torch import Tensor

from phfcli.core.losses import fused_divergence as chunked
from phfcli.losses import (
    clipped_surrogate,
    divergence,
    group_advantages,
    sampled_reverse_kl,
    token_logprobs,
    truncated_weights,
)

N, V, D = 7, 11, 5


def draw(dtype: torch.dtype = torch.float64, tokens: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [N, d], head [V, d], tokens [N]."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, D, generator=generator, dtype=torch.float64)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), head.to(dtype), torch.randint(V, (tokens,), generator=generator)


def slow(hidden: Tensor, head: Tensor, tokens: Tensor, temperature: float) -> list[float]:
    values = []
    for h, token in zip(hidden.tolist(), tokens.tolist(), strict=True):
        logits = [sum(a * b for a, b in zip(h, row, strict=True)) / temperature for row in head.tolist()]
        values.append(logits[token] - math.log(sum(map(math.exp, logits))))
    return values


def plain(hidden: Tensor, head: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    return (hidden @ head.T / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def value_and_grads(function: Any, hidden: Tensor, head: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in (hidden, head)]
    values = function(*leaves, *rest, **options)
    weights = torch.linspace(-1, 2, len(values), dtype=values.dtype)
    return (values.detach(), *torch.autograd.grad(values @ weights, leaves))


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("chunk_size", [1, 3, N, None])
def test_logprobs_and_gradients_are_those_of_all_logits(temperature: float, chunk_size: int | None) -> None:
    got = value_and_grads(token_logprobs, *draw(), temperature, chunk_size=chunk_size)
    torch.testing.assert_close(got, value_and_grads(plain, *draw(), temperature))
    assert got[0].tolist() == pytest.approx(slow(*draw(), temperature))


def test_gradcheck() -> None:
    hidden, head, tokens = draw()
    inputs = (hidden.requires_grad_(), head.requires_grad_())
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, tokens, 1.2, chunk_size=3), inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_lower_precision(dtype: torch.dtype, tolerance: float) -> None:
    hidden, head, tokens = draw(dtype)
    got = value_and_grads(token_logprobs, hidden, head, tokens, 1.1)
    want = value_and_grads(plain, hidden.double(), head.double(), tokens, 1.1)
    assert (got[0].dtype, got[1].dtype, got[2].dtype) == (torch.float32, dtype, dtype)
    torch.testing.assert_close([x.double() for x in got], list(want), rtol=tolerance, atol=tolerance)


def test_a_frozen_head_gets_no_gradient_and_no_grad_means_none() -> None:
    hidden, head, tokens = draw()
    hidden.requires_grad_()
    token_logprobs(hidden, head, tokens).sum().backward()
    assert hidden.grad is not None
    assert head.grad is None
    with torch.no_grad():
        assert not token_logprobs(hidden, head, tokens).requires_grad


def test_no_tokens_at_all() -> None:
    got = value_and_grads(token_logprobs, *draw(tokens=0))
    assert [x.numel() for x in got] == [0, 0, V * D]
    assert not got[2].any()


def test_the_logits_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 2 * 4 * 1000 * 4)
    hidden, head = torch.randn(64, 4, requires_grad=True), torch.randn(1000, 4, requires_grad=True)
    with Largest() as largest:
        token_logprobs(hidden, head, torch.arange(64)).sum().backward()
    assert largest.numel == 4 * 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.ones(N, D + 1)}, "must be"),
        ({"tokens": torch.zeros(N + 1, dtype=torch.long)}, "must be"),
        ({"temperature": 0.0}, "temperature"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    hidden, head, tokens = draw(torch.float32)
    with pytest.raises(ValueError, match=message):
        token_logprobs(**{"hidden": hidden, "head": head, "tokens": tokens, **changes})


REWARDS = st.lists(st.integers(-50, 50).map(lambda tenths: tenths / 10), min_size=2, max_size=9)


@given(REWARDS, st.booleans())
def test_advantages_sum_to_zero_in_every_group(rewards: list[float], normalize: bool) -> None:
    advantages = group_advantages(torch.tensor([rewards, rewards[::-1]], dtype=torch.float64), normalize)
    assert advantages.sum(-1).abs().max() < 1e-6
    torch.testing.assert_close(advantages[0], advantages[1].flip(0))


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.float64)
    assert group_advantages(rewards, normalize=False).tolist() == [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]]
    one, two = 0.5, math.sqrt(1 / 3)  # sample deviations
    want = [[0.75 / one, *[-0.25 / one] * 3], [0.5 / two, 0.5 / two, -0.5 / two, -0.5 / two]]
    assert group_advantages(rewards).tolist() == [pytest.approx(row) for row in want]


@given(st.floats(-1e3, 1e3), st.integers(1, 9), st.booleans())
def test_equal_rewards_have_advantages_of_exactly_zero(reward: float, size: int, normalize: bool) -> None:
    assert not group_advantages(torch.full((size,), reward), normalize).any()


def test_the_surrogate_at_ratio_one_has_the_gradient_of_a_times_logp() -> None:
    logprobs = -torch.rand(N, dtype=torch.float64)
    advantages = torch.randn(N, dtype=torch.float64)
    leaf = logprobs.clone().requires_grad_()
    losses = clipped_surrogate(leaf, leaf, advantages)
    torch.testing.assert_close(losses.detach(), -advantages)
    torch.testing.assert_close(torch.autograd.grad(losses.sum(), leaf)[0], -advantages)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # better, and already likelier by more than the clip
        (1.5, -2.0, 3.0, 3.0),  # worse, and likelier: pushed back
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.1, 2.0, -2.2, -2.2),
    ],
)
def test_the_clip_of_the_surrogate(ratio: float, advantage: float, loss: float, slope: float) -> None:
    logprobs = torch.tensor([math.log(ratio) - 3], dtype=torch.float64, requires_grad=True)
    old, gain = torch.tensor([-3.0], requires_grad=True), torch.tensor([advantage], requires_grad=True)
    value = clipped_surrogate(logprobs, old, gain, epsilon=0.2)
    value.sum().backward()
    assert value.item() == pytest.approx(loss)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(slope)
    assert old.grad is None
    assert gain.grad is None


def test_the_engines_weight_is_capped_and_constant() -> None:
    trainer = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    engine = torch.tensor([-1.0, -0.5, -3.0], requires_grad=True)
    weights = truncated_weights(trainer, engine, cap=2.0)
    assert weights.tolist() == pytest.approx([1, math.exp(-0.5), 2])
    assert not weights.requires_grad


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_its_mean_over_the_students_draws_is_the_reverse_kl_and_so_is_its_gradient(temperature: float) -> None:
    hidden, head, teacher_logits = normal(1, D), normal(V, D), normal(1, V)
    everything = torch.arange(V)
    teacher = (teacher_logits / temperature).log_softmax(-1)[0]

    leaf = hidden.clone().requires_grad_()
    logprobs = token_logprobs(leaf.expand(V, D), head, everything, temperature)
    chance = logprobs.detach().exp()  # of drawing each token: a weight, not a part of the loss
    estimate = (chance * sampled_reverse_kl(logprobs, teacher)).sum()
    (gradient,) = torch.autograd.grad(estimate, leaf)

    exact_leaf = hidden.clone().requires_grad_()
    exact = divergence(exact_leaf @ head.T, teacher_logits, kind="reverse_kl", temperature=temperature).sum()
    torch.testing.assert_close(estimate.detach(), exact.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(exact, exact_leaf)[0])


def test_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([-1.5, -0.5], dtype=torch.float64, requires_grad=True)
    values = sampled_reverse_kl(logprobs, teacher)
    assert values.tolist() == [0.5, -1.5]
    values.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.5, -1.5]  # minus the advantage
    assert teacher.grad is None


def test_gradcheck_at_a_fixed_advantage() -> None:
    """The advantage is a constant of the gradient, so it must be one of the finite difference."""
    hidden, head, teacher = normal(4, D).requires_grad_(), normal(V, D), normal(4)
    tokens = torch.tensor([1, 8, 0, 3])
    before = token_logprobs(hidden, head, tokens).detach()

    def surrogate(h: Tensor) -> Tensor:
        return ((before - teacher) * (token_logprobs(h, head, tokens) - before).exp()).sum()

    assert torch.autograd.gradcheck(surrogate, hidden)
    (want,) = torch.autograd.grad(surrogate(hidden), hidden)
    (got,) = torch.autograd.grad(sampled_reverse_kl(token_logprobs(hidden, head, tokens), teacher).sum(), hidden)
    torch.testing.assert_close(got, want)
