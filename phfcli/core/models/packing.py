"""Packing: several sequences in one row without padding, a shared prefix computed once, attention within each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from phfcli.core.models.device import to_device
from phfcli.core.models.language_model import PACKING_SDPA

# of a sequence: a shorter shared prefix costs more in copies of keys and values than it saves in products
_LEAST_SHARE = 1 / 16


@dataclass(frozen=True)
class PackedRow:
    """A row of the tokens of several sequences, T in all; a prefix that sequences share is in it once."""

    pieces: Sequence[Sequence[slice]]  # for each sequence, the slices of the row that hold its tokens, in order
    computed: Sequence[int]  # for each sequence, the number of its last tokens that are computed for it alone
    ids: Tensor  # [T]
    positions: Tensor  # [T], the position of each token in its sequence

    def columns(self) -> Tensor:
        """The column of each token of each sequence, [B, C]; beyond a sequence's end the column of its last token."""
        held = [torch.cat([torch.arange(part.start, part.stop) for part in parts]) for parts in self.pieces]
        tokens = torch.arange(max(map(len, held)))
        columns = torch.stack([own[tokens.clamp_max(len(own) - 1)] for own in held])
        return to_device(columns, self.ids.device)

    def ends(self) -> Tensor:
        """The column of each sequence's last token, [B]."""
        return to_device(torch.tensor([parts[-1].stop - 1 for parts in self.pieces]), self.ids.device)

    def gather(self, values: Tensor, sequence: int) -> Tensor:
        """The values of one sequence, [..., T, h] -> [..., its tokens, h]: a view where no prefix is shared."""
        parts = [values[..., part, :] for part in self.pieces[sequence]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def pack(sequences: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    """The token ids of each sequence, none of them empty, as one row."""
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    # in sorted order no sequence has a longer prefix in common with an earlier one than with the one before it
    shared = [0] * len(sequences)
    for before, index in pairwise(order):
        shared[index] = _common(sequences[before], sequences[index])
    computed = [len(ids) - count for ids, count in zip(sequences, shared, strict=True)]
    stops = list(accumulate(computed))
    pieces: dict[int, list[slice]] = {}
    slices: list[slice] = []
    for index in order:
        slices = _first(slices, shared[index])
        if computed[index]:
            slices.append(slice(stops[index] - computed[index], stops[index]))
        pieces[index] = slices
    rows = [torch.tensor(ids[count:]) for ids, count in zip(sequences, shared, strict=True)]
    positions = [torch.arange(count, len(ids)) for ids, count in zip(sequences, shared, strict=True)]
    return PackedRow(
        [pieces[index] for index in range(len(sequences))],
        computed,
        to_device(torch.cat(rows).long(), device),
        to_device(torch.cat(positions), device),
    )


def _common(before: Sequence[int], ids: Sequence[int]) -> int:
    """The length of the prefix that `ids` shares with `before`; 0 where it is too short to be worth sharing."""
    pairs = zip(before, ids, strict=False)
    count = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(ids)))
    return count if count >= _LEAST_SHARE * len(ids) else 0


def _first(pieces: Sequence[slice], count: int) -> list[slice]:
    """The slices that hold the first `count` tokens of a sequence."""
    first: list[slice] = []
    for part in pieces:
        if count > 0:
            first.append(slice(part.start, min(part.stop, part.start + count)))
        count -= part.stop - part.start
    return first


# (module, query [1, H, T, h], key and value [1, G, T, h], scaling, dropout, window) -> [1, T, H, h]
# a token attends to the `window` newest tokens of its sequence, itself included; None is to all of them
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, float | None, float, int | None], Tensor]


@dataclass(frozen=True)
class CausalSequences:
    """Each token attends to the earlier ones of its own sequence, within the layer's window."""

    row: PackedRow

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        dropout: float,
        window: int | None,
    ) -> Tensor:
        """One call of the fused attention for each sequence that fits into the window.

        The queries of a shared prefix are computed again and their result is dropped: causal kernels want as many
        queries as keys, a mask would take memory of queries times keys, and attention is cheap beside the matrix
        products of a layer.
        """
        gqa = query.shape[1] != key.shape[1]
        out: list[Tensor] = []
        for sequence, count in enumerate(self.row.computed):
            if count:
                q, k, v = (self.row.gather(x, sequence) for x in (query, key, value))
                if window is not None and window < k.shape[2]:
                    attended = _attend_within(window, q[:, :, -count:], k, v, scaling, dropout)
                else:
                    attended = scaled_dot_product_attention(
                        q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=gqa
                    )
                out.append(attended[:, :, -count:].transpose(1, 2))
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)  # the output of a single sequence is not copied


def _attend_within(
    window: int, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
) -> Tensor:
    """Attention of a sequence's last C tokens, query [1, H, C, h], key and value [1, G, T, h] -> [1, H, C, h].

    As many queries at a time as the window is long, so that a mask has at most twice the window's columns.
    """
    groups, length, count = query.shape[1] // key.shape[1], key.shape[2], query.shape[2]
    if groups > 1:  # with a mask the fused kernels know no shared key heads
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    out: list[Tensor] = []
    for start in range(length - count, length, window):
        stop, first = min(start + window, length), max(0, start - window + 1)
        at = torch.arange(first, stop, device=query.device)
        mask = in_window(at[start - first :], at, window)
        q, k, v = query[:, :, start - length : stop - length or None], key[:, :, first:stop], value[:, :, first:stop]
        out.append(scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling))
    return torch.cat(out, dim=2)


def in_window(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which keys at positions [K] each query at positions [Q] attends to, [Q, K]."""
    distance = queries[:, None] - keys
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def row_arguments(row: PackedRow, attend: Attend) -> dict[str, Any]:
    """The arguments of a model's forward for a packed row."""
    return packed_arguments(row.ids, row.positions, attend)


def packed_arguments(ids: Tensor, positions: Tensor, attend: Attend) -> dict[str, Any]:
    """The arguments of a model's forward for a row of token ids [T] at `positions` [T]."""
    return {
        "input_ids": ids[None],
        "position_ids": positions[None],
        # models take a mask of four dimensions as it is, and make none of their own
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
        "use_cache": False,
        "attend": attend,
    }


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    attend: Attend | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' own sdpa, but for a packed row, which brings its attention along as `attend`."""
    if attend is None:  # the mask holds the window
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    return attend(module, query, key, value, scaling, dropout, sliding_window), None


AttentionInterface.register(PACKING_SDPA, _attention)
AttentionMaskInterface.register(PACKING_SDPA, sdpa_mask)
