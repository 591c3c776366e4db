"""Sequences one behind the other in a single row, which holds a beginning that some of them share once.

A token's state depends on the tokens before it and on nothing else. So where sequences begin alike, as the prompts of
one template and the completions of one problem do, that beginning is computed in one place, and all attend to it there.

Shapes: B sequences, C tokens of the longest, T tokens of the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

_LEAST_SHARE = 1 / 16  # of a sequence: to share less costs more copies of keys and values than it saves products


@dataclass(frozen=True)
class PackedRow:
    """Where the row holds the tokens of each sequence, and what it holds."""

    pieces: Sequence[Sequence[slice]]  # of each sequence, from its first token to its last
    own: Sequence[int]  # of each sequence, how many of its last tokens are computed for it; the others are shared
    ids: Tensor  # [T]
    positions: Tensor  # [T], of each token in its sequence

    def places(self) -> Tensor:
        """The place of each token of each sequence, [B, C]; behind its end the place of its last one."""
        held = [torch.cat([torch.arange(part.start, part.stop) for part in parts]) for parts in self.pieces]
        columns = torch.arange(max(map(len, held)))
        return torch.stack([one[columns.clamp_max(len(one) - 1)] for one in held]).to(self.ids.device)

    def ends(self) -> Tensor:
        """The place of each sequence's last token, [B]."""
        return torch.tensor([parts[-1].stop - 1 for parts in self.pieces], device=self.ids.device)

    def gather(self, values: Tensor, sequence: int) -> Tensor:
        """What belongs to one sequence, values [..., T, h] -> [..., its tokens, h]: a view where nothing is shared."""
        parts = [values[..., part, :] for part in self.pieces[sequence]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def pack(sequences: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    """Token ids of each sequence as one row. None of them is empty."""
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    shared = [0] * len(sequences)  # no other sequence has a longer beginning in common than the one before it in order
    for before, index in pairwise(order):
        shared[index] = _common(sequences[before], sequences[index])
    own = [len(ids) - count for ids, count in zip(sequences, shared, strict=True)]
    stops = list(accumulate(own))
    pieces: dict[int, list[slice]] = {}
    held: list[slice] = []
    for index in order:
        held = _first(held, shared[index])
        if own[index]:
            held.append(slice(stops[index] - own[index], stops[index]))
        pieces[index] = held
    rows = [torch.tensor(ids[count:]) for ids, count in zip(sequences, shared, strict=True)]
    positions = [torch.arange(count, len(ids)) for ids, count in zip(sequences, shared, strict=True)]
    return PackedRow(
        [pieces[index] for index in range(len(sequences))],
        own,
        torch.cat(rows).long().to(device),
        torch.cat(positions).to(device),
    )


def _common(before: Sequence[int], ids: Sequence[int]) -> int:
    """How many first tokens of `ids` are taken from `before`."""
    pairs = zip(before, ids, strict=False)
    count = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(ids)))
    return count if count >= _LEAST_SHARE * len(ids) else 0


def _first(pieces: Sequence[slice], count: int) -> list[slice]:
    """The pieces of the first `count` tokens of a sequence."""
    first: list[slice] = []
    for part in pieces:
        if count > 0:
            first.append(slice(part.start, min(part.stop, part.start + count)))
        count -= part.stop - part.start
    return first
