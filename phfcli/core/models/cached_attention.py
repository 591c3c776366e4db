"""The key-value cache of rollouts in this process, and the attention that fills and reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from phfcli.core.models.packing import CausalSequences, PackedRow, in_window


@dataclass
class KeyValueCache:
    """Keys and values [R, G, C, h] of every block, R rows and C columns; made when a block first writes.

    G is the number of key heads, h their size.
    """

    rows: int
    columns: int
    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The block's stored keys and values, made for new ones [1, G, T, h]; under autocast their dtypes differ."""
        if module not in self.layers:
            keys, values = (x.new_zeros(self.rows, x.shape[1], self.columns, x.shape[3]) for x in (key, value))
            self.layers[module] = keys, values  # zeros: masked entries must be finite
        return self.layers[module]

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copies the first columns of the source rows into the target rows."""
        if sources:
            for store in (store for pair in self.layers.values() for store in pair):
                store[list(targets), :, :columns] = store[list(sources), :, :columns]


@dataclass(frozen=True)
class ReadPrompts:
    """Attention within each prompt of a packed row, which also fills the cache rows of the prompt's completions."""

    cache: KeyValueCache
    row: PackedRow
    rows: Sequence[Sequence[int]]  # of the cache, for each prompt

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
        for store, new in zip(self.cache.of(module, key, value), (key, value), strict=True):
            for prompt, rows in enumerate(self.rows):
                part = self.row.gather(new[0], prompt)
                for row in rows:
                    store[row, :, : part.shape[1]] = part
        return CausalSequences(self.row)(module, query, key, value, scaling, dropout, window)


@dataclass(frozen=True)
class NextTokens:
    """Attention of one new token in each of the first T rows to itself and to the earlier tokens of its row.

    A layer with a window attends to the newest of them only.
    """

    cache: KeyValueCache
    columns: Tensor  # [T], the column of each new token
    longest: int  # columns of the longest row, its new token included
    mask: Tensor | None  # [T, 1, 1, longest], the columns that belong to the row; None where all rows are equally long

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
        count = len(self.columns)
        rows = torch.arange(count, device=query.device)
        stored: list[Tensor] = []
        for store, new in zip(self.cache.of(module, key, value), (key, value), strict=True):
            store[rows, :, self.columns] = new[0].transpose(0, 1)
            stored.append(store[:count, :, : self.longest])
        # query heads that share a key head become several queries of that head, so that no key is repeated
        _, heads, _, size = query.shape
        keys, values = stored
        groups = keys.shape[1]
        grouped = query[0].transpose(0, 1).reshape(count, groups, heads // groups, size)
        mask = self.mask if window is None or window >= self.longest else _visible(self.columns, self.longest, window)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        return out.reshape(1, count, heads, values.shape[-1])  # values may have another head size than keys


def next_tokens(cache: KeyValueCache, lengths: Sequence[int], device: torch.device) -> NextTokens:
    """The attention of the next tokens of rows that hold so many tokens each."""
    columns, longest = torch.tensor(lengths, device=device), max(lengths) + 1
    mask = _visible(columns, longest, None) if min(lengths) + 1 < longest else None
    return NextTokens(cache, columns, longest, mask)


def _visible(columns: Tensor, longest: int, window: int | None) -> Tensor:
    """The columns that a new token in each of `columns` [T] attends to, [T, 1, 1, longest]."""
    return in_window(columns, torch.arange(longest, device=columns.device), window)[:, None, None]
