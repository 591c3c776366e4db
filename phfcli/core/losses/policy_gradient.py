"""Log-probabilities of given tokens from hidden states, and the loss of GRPO (Shao et al. 2024, arXiv 2402.03300).

Shapes: N tokens, n tokens of a chunk, d hidden size, V vocabulary, k completions of one problem.

With logits z = head h / temperature and S = softmax(z), the log-probability of token y has the gradient onehot(y) - S
to z. The product of that gradient with the head does not depend on the loss that the caller computes from the
log-probability, so the forward pass keeps it, [N, d]. Only a head that trains needs its logits computed again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from phfcli.core.losses import fused_divergence as chunked
from phfcli.core.losses.head import Head, as_head
from phfcli.core.losses.positions import working


def token_logprobs(
    hidden: Tensor, head: Tensor | Head, tokens: Tensor, temperature: float = 1.0, chunk_size: int | None = None
) -> Tensor:
    """The log-probability ln S(token) of each token, [N] in nats, computed in chunks of tokens.

    The gradient flows to `hidden` and `head`. `token_logprobs_and_entropy` also returns each distribution's entropy.

    Args:
        hidden: [N, d] inputs of the LM head (after the final norm). Logits are computed in its dtype, everything after
            in float32 (float64 for float64).
        head: its weight [V, d], or a Head with a bias, a scale, a soft cap; gradients to weight and bias are
            accumulated in float32 where they are required.
        tokens: [N] int64.
        temperature: divides the logits.
        chunk_size: tokens whose logits are held at once; by default as many as 75 MiB hold (64 at V = 151,936),
            on a GPU 512 MiB.

    Returns:
        [N] in float32, or float64 for float64.

    Raises:
        ValueError: shapes that do not fit, or an option out of range.
    """
    return token_logprobs_and_entropy(hidden, head, tokens, temperature, chunk_size)[0]


def token_logprobs_and_entropy(
    hidden: Tensor, head: Tensor | Head, tokens: Tensor, temperature: float = 1.0, chunk_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` and the entropy of each distribution, from the same pass; the entropy has no gradient.

    Returns:
        Log-probabilities [N] and entropies [N], both in nats.

    Raises:
        ValueError: shapes that do not fit, or an option out of range.
    """
    lm_head = as_head(head)
    _check(hidden, lm_head.weight, tokens, temperature, chunk_size)
    if not torch.is_grad_enabled():
        hidden, lm_head = hidden.detach(), lm_head.detach()
    inputs = (hidden, lm_head.weight, lm_head.bias, tokens)
    result: tuple[Tensor, Tensor]
    result = _TokenLogprobs.apply(*inputs, lm_head, temperature, chunk_size)  # type: ignore[no-untyped-call]
    return result


def group_advantages(rewards: Tensor, normalize: bool = True) -> Tensor:
    """GRPO's advantages A_i = (r_i - mean r) / std r of each group of k completions: [..., k] -> [..., k].

    `normalize` decides whether the sample standard deviation (over k - 1) divides. A group whose rewards are all equal
    has advantages of exactly zero.
    """
    rewards = working(rewards)
    centred = rewards - rewards.mean(-1, keepdim=True)
    # the rewards are compared, because rounding can give equal rewards a deviation above zero
    all_equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    if normalize and rewards.shape[-1] > 1:
        centred = centred / rewards.std(-1, keepdim=True)
    return centred.masked_fill(all_equal, 0)


def clipped_surrogate(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float = 0.2) -> Tensor:
    """The loss of each token, -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) with r = p / p_old (GRPO, eq. 3); all [N].

    The gradient flows to `logprobs` only. At r = 1 it is -A. It is zero where r has left the clip range on the side
    that A rewards.

    Args:
        logprobs, old_logprobs: [N] log-probabilities of the tokens under the trained and the sampling policy, in nats.
        advantages: [N], constants.
        epsilon: half the width of the clip range.
    """
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def truncated_weights(logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(p / p_engine, cap) of sampled tokens, [N], without a gradient.

    They correct for tokens that the rollout engine sampled from another distribution than the trainer's. The cap bounds
    the variance, at the price of a bias towards zero where the two distributions disagree most.

    Args:
        logprobs, engine_logprobs: [N] log-probabilities under the trainer and the engine, in nats.
        cap: the largest weight.
    """
    return (logprobs.detach() - engine_logprobs.detach()).exp().clamp(max=cap)


class _TokenLogprobs(torch.autograd.Function):
    """The forward pass computes the gradient to the hidden states; the backward pass scales it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        head: Head,
        temperature: float,
        chunk_size: int | None,
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        logprobs = working(hidden.new_empty(len(hidden)))
        entropy = torch.empty_like(logprobs)
        slope = torch.empty_like(hidden) if wants_hidden else None  # [N, d]
        cast_head = head.to(hidden.dtype)
        for rows, values, residual_nV in _chunks(hidden, cast_head, tokens, temperature, chunk_size):
            logprobs[rows], entropy[rows] = values
            if slope is not None:
                slope[rows] = residual_nV @ cast_head.weight / temperature
        trains_head = wants_weight or wants_bias
        ctx.save_for_backward(slope, *((hidden, weight, bias, tokens) if trains_head else ()))
        ctx.options = head.scale, head.soft_cap, temperature, chunk_size
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        slope, *rest = ctx.saved_tensors
        to_hidden = None if slope is None else (slope * grad[:, None]).to(slope.dtype)
        to_weight, to_bias = None, None
        if rest:
            hidden, weight, bias, tokens = rest
            scale, soft_cap, *options = ctx.options
            to_weight, to_bias = _to_head(grad, hidden, Head(weight, bias, scale, soft_cap), tokens, *options)
        return to_hidden, to_weight, to_bias, None, None, None, None


def _to_head(
    grad: Tensor, hidden: Tensor, head: Head, tokens: Tensor, temperature: float, chunk_size: int | None
) -> tuple[Tensor, Tensor | None]:
    """sum_n grad_n d ln p_n / d weight, [V, d], and the same for the bias, [V]."""
    total, bias = torch.zeros_like(head.weight, dtype=grad.dtype), grad.new_zeros(len(head))
    for rows, _, residual_nV in _chunks(hidden, head.to(hidden.dtype), tokens, temperature, chunk_size):
        scaled = grad[rows, None] / temperature
        total.addmm_(working(residual_nV).T, working(hidden[rows]) * scaled)
        if head.bias is not None:
            bias.addmv_(working(residual_nV).T, scaled[:, 0])
    return total.to(head.weight.dtype), None if head.bias is None else bias.to(head.bias.dtype)


def _chunks(
    hidden: Tensor, head: Head, tokens: Tensor, temperature: float, chunk_size: int | None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yields of each chunk its rows, its log-probabilities and entropies [2, n], and the gradient of ln S(y) [n, V].

    The gradient, onehot(y) - S carried back through the soft cap and scale, is to the head's products. It is without
    the factor 1 / temperature and is overwritten by the next chunk.
    """
    chunk = chunked.chunk_rows(hidden, len(head), chunk_size)
    buffer_nV = hidden.new_empty(chunk, len(head))
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        count = len(hidden[rows])
        with torch.autocast(hidden.device.type, enabled=False):
            logits_nV = torch.mm(hidden[rows], head.weight.T, out=buffer_nV[:count])
        values = [_residual(logits_nV[s], tokens[rows][s, None], temperature, head) for s in chunked.slabs(logits_nV)]
        yield rows, torch.cat(values, dim=1), logits_nV


def _residual(products_nV: Tensor, chosen_n1: Tensor, temperature: float, head: Head) -> Tensor:
    """Log-probabilities of the chosen tokens and entropies, [2, n]; writes the gradient into the products."""
    logits_nV = head.finish(products_nV)
    logprobs_nV = (working(logits_nV) / temperature).log_softmax(-1)
    values = logprobs_nV.gather(1, chosen_n1)
    residual_nV = logprobs_nV.exp()
    entropy = -torch.linalg.vecdot(residual_nV, logprobs_nV)
    residual_nV.neg_().scatter_add_(1, chosen_n1, torch.ones_like(values))
    products_nV.copy_(head.to_products(residual_nV, logits_nV))
    return torch.stack((values[:, 0], entropy))


def _check(hidden: Tensor, head: Tensor, tokens: Tensor, temperature: float, chunk_size: int | None) -> None:
    if hidden.ndim != 2 or head.ndim != 2 or hidden.shape[1] != head.shape[1] or tokens.shape != hidden.shape[:1]:
        shapes = f"{tuple(hidden.shape)}, {tuple(head.shape)} and {tuple(tokens.shape)}"
        raise ValueError(f"hidden states must be [N, d], the head [V, d] and tokens [N]; got {shapes}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive; got {temperature}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1; got {chunk_size}")
