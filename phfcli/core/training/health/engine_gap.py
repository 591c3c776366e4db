"""How far the engine that draws rollouts is from the policy that trains on them.

Both have a log-probability of each token, of the distribution that was drawn from. They are compared on a few tokens of
each micro-batch, evenly spread, whose logits are computed once more: a percent of a large batch's work.
"""

import torch
from torch import Tensor

from phfcli.core.losses.divergence.vocabulary_terms import logits_entropy
from phfcli.core.losses.shared import working
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.rollouts.seeded_sampler import drawn_logprobs
from phfcli.core.training.health.token_metrics import Sums
from phfcli.core.types import Sampling

_TOKENS = 64  # of a micro-batch
_LARGEST = 20.0  # nats, whose exponential is still a number


@torch.no_grad()
def engine_gap(student: Pass, batch: Batch, sampling: Sampling) -> tuple[Sums, Tensor | None]:
    """The mean gap in nats, KL(engine || trainer), which is never negative here, and the largest gap.

    Tokens that no engine has drawn, those of references, are left out. Where there are no others the counts are 0, and
    nothing is largest.
    """
    engine = batch.drawn_logprobs
    drawn = engine.isfinite().nonzero()[:, 0]
    chosen = drawn[_spread(len(drawn), drawn.device)]
    logits = working(student.head.logits(student.hidden[chosen].detach()))
    gap = drawn_logprobs(logits, batch.token_ids[chosen], sampling) - engine[chosen].to(logits.dtype)
    count = gap.new_tensor(len(chosen))
    kl = gap.clamp(max=_LARGEST).exp() - 1 - gap
    sums = {"engine_gap": (gap.abs().sum(), count), "engine_kl": (kl.sum(), count)}
    return sums, gap.abs().max() if len(gap) else None


@torch.no_grad()
def sparse_entropy(student: Pass, temperature: float) -> Tensor:
    """The policy's entropy on these tokens [n], for objectives that do not read the vocabulary."""
    logits = student.head.logits(student.hidden[_spread(len(student.hidden), student.hidden.device)].detach())
    return logits_entropy(logits, temperature)


def _spread(tokens: int, device: torch.device) -> Tensor:
    """At most so many of the tokens, the first and the last among them."""
    return torch.linspace(0, tokens - 1, min(tokens, _TOKENS), device=device, dtype=torch.float64).round().long()
