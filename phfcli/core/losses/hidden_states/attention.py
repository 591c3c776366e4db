"""Attention of sampled queries over sampled keys, and the divergence of two layers' attention (OISD, section 3.2.2).

Shapes: B samples, m queries, T columns, K keys of a query, H query heads, G key heads (H is a multiple of G), c head
size.

The keys of a query at column t are the `window` newest, t among them, and at most `strided` of the earlier ones, evenly
spaced from column 0 on; all there are, where these are enough. So memory is B x m x K x (H + G c), whatever T is.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from phfcli.core.losses.divergence.plain import divergence
from phfcli.core.losses.shared import working


class Attention(NamedTuple):
    """What the attention function of one layer gets: after projections, norms and rotation."""

    queries: Tensor  # [B, H, T, c]
    keys: Tensor  # [B, G, T, c]
    scale: float  # of their products


def attention_divergence(
    student: Attention, teacher: Attention, columns: Tensor, window: int, strided: int, beta: float = 0.5
) -> Tensor:
    """The mean over heads of jsd(beta) between two layers' attention, each renormalised over the sampled keys.

    The gradient flows to the student's queries and keys only; in float32, or float64 for float64.

    Args:
        columns: [B, m] int64, the columns of the queries; columns 0..t of a row are what its query t may see.
        window, strided: how many keys, see above.

    Returns:
        [B, m], in nats.
    """
    keys, allowed = sampled_keys(columns, window, strided)
    detached = Attention(teacher.queries.detach(), teacher.keys.detach(), teacher.scale)
    own, wanted = (
        attention_logits(layer, columns, keys).masked_fill(~allowed[:, :, None], -torch.inf)
        for layer in (student, detached)
    )
    return divergence(own, wanted, kind="jsd", beta=beta).mean(-1)


def sampled_keys(columns: Tensor, window: int, strided: int) -> tuple[Tensor, Tensor]:
    """The key columns of queries at `columns` [B, m]: [B, m, K] and which of them count, K = window + strided."""
    last = columns[..., None]
    recent = last - torch.arange(window, device=columns.device)
    earlier = (last - window + 1).clamp(min=0)  # columns before the window
    stride = (earlier + strided - 1).div(max(strided, 1), rounding_mode="floor").clamp(min=1)
    spread = torch.arange(strided, device=columns.device) * stride
    allowed = torch.cat((recent >= 0, spread < earlier), -1)
    return torch.cat((recent, spread), -1).masked_fill(~allowed, 0), allowed


def attention_logits(layer: Attention, columns: Tensor, keys: Tensor) -> Tensor:
    """Scaled products of the queries at `columns` [B, m] with the keys at `keys` [B, m, K]: [B, m, H, K]."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    queries = working(layer.queries.transpose(1, 2)[rows, columns])  # [B, m, H, c]
    chosen = working(layer.keys.transpose(1, 2)[rows[:, None], keys])  # [B, m, K, G, c]
    grouped = queries.unflatten(2, (chosen.shape[3], -1))  # [B, m, G, H / G, c]: neighbouring heads share a key head
    return (torch.einsum("bmghc,bmkgc->bmghk", grouped, chosen) * layer.scale).flatten(2, 3)
