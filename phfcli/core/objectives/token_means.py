"""The two means over the tokens of several completions: over all of them, or over each completion's own first."""

from typing import Literal

import torch
from torch import Tensor

from phfcli.core.config import Aggregate
from phfcli.core.models.passes import Batch


def token_divisors(batch: Batch, aggregate: Aggregate) -> tuple[Tensor, Literal["tokens", "samples"]]:
    """What divides each token [N], and then their sum: a mean over all tokens, or over each completion's own first."""
    rows, _ = batch.tokens
    return (torch.ones_like(rows), "tokens") if aggregate == "token" else (batch.lengths[rows], "samples")
