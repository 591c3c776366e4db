"""Keys and values of the sequences that are being drawn, in places that are taken once and written token by token.

A row holds one sequence from its first column on; there is no padding in between. Rows that have ended are filled with
ones that go on, so that the live ones are always the first.

Shapes: R rows, H heads, G key-value heads, C columns, T tokens of a packed row, h head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from phfcli.core.models.kernels.packed_attention import CausalSequences
from phfcli.core.models.kernels.packed_row import PackedRow


@dataclass
class KeyValueCache:
    """Of every block, keys and values [R, G, C, h], made when the block first writes to it."""

    rows: int
    columns: int
    layers: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The block's own, for new ones like these, [1, G, T, h] each; under autocast their dtypes differ."""
        if module not in self.layers:
            keys, values = (x.new_zeros(self.rows, x.shape[1], self.columns, x.shape[3]) for x in (key, value))
            self.layers[module] = keys, values  # zeros: what is masked must be a number
        return self.layers[module]

    def move(self, sources: Sequence[int], targets: Sequence[int], columns: int) -> None:
        """Copies the first columns of some rows into the places of others."""
        if sources:
            for store in (store for pair in self.layers.values() for store in pair):
                store[list(targets), :, :columns] = store[list(sources), :, :columns]


@dataclass(frozen=True)
class ReadPrompts:
    """Attention within each of the prompts of a packed row, which writes them to the rows of their completions."""

    cache: KeyValueCache
    row: PackedRow
    rows: Sequence[Sequence[int]]  # of each prompt

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        for store, new in zip(self.cache.of(module, key, value), (key, value), strict=True):
            for prompt, rows in enumerate(self.rows):
                part = self.row.gather(new[0], prompt)
                for row in rows:
                    store[row, :, : part.shape[1]] = part
        return CausalSequences(self.row)(module, query, key, value, scaling, dropout)


@dataclass(frozen=True)
class NextTokens:
    """Attention of one new token of each of the first T rows to what its row holds and to itself."""

    cache: KeyValueCache
    columns: Tensor  # [T], where each new token goes
    longest: int  # columns that any of the rows then fills
    mask: Tensor | None  # [T, 1, 1, longest], what of them is its row's own; None is everything

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        count = len(self.columns)
        rows = torch.arange(count, device=query.device)
        held: list[Tensor] = []
        for store, new in zip(self.cache.of(module, key, value), (key, value), strict=True):
            store[rows, :, self.columns] = new[0].transpose(0, 1)
            held.append(store[:count, :, : self.longest])
        # the heads that share keys are so many queries of one head: nothing is repeated
        _, heads, _, size = query.shape
        keys, values = held
        groups = keys.shape[1]
        grouped = query[0].transpose(0, 1).reshape(count, groups, heads // groups, size)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.mask, scale=scaling)
        return out.reshape(1, count, heads, values.shape[-1])  # which may be of another size than keys


def next_tokens(cache: KeyValueCache, lengths: Sequence[int], device: torch.device) -> NextTokens:
    """For rows that hold so many tokens each."""
    columns, longest = torch.tensor(lengths, device=device), max(lengths) + 1
    mask = None
    if min(lengths) + 1 < longest:
        mask = (torch.arange(longest, device=device) <= columns[:, None])[:, None, None]
    return NextTokens(cache, columns, longest, mask)
