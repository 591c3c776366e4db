"""OPD's sampled form against the divergence it estimates, summed over every token that could have been drawn."""

import pytest
import torch
from torch import Tensor

from phfcli.losses import divergence, sampled_reverse_kl, token_logprobs

V, D = 9, 5


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_its_mean_over_the_students_draws_is_the_reverse_kl_and_so_is_its_gradient(temperature: float) -> None:
    hidden, head, teacher_logits = draw(1, D), draw(V, D), draw(1, V)
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
    hidden, head, teacher = draw(4, D).requires_grad_(), draw(V, D), draw(4)
    tokens = torch.tensor([1, 8, 0, 3])
    before = token_logprobs(hidden, head, tokens).detach()

    def surrogate(h: Tensor) -> Tensor:
        return ((before - teacher) * (token_logprobs(h, head, tokens) - before).exp()).sum()

    assert torch.autograd.gradcheck(surrogate, hidden)
    (want,) = torch.autograd.grad(surrogate(hidden), hidden)
    (got,) = torch.autograd.grad(sampled_reverse_kl(token_logprobs(hidden, head, tokens), teacher).sum(), hidden)
    torch.testing.assert_close(got, want)
