"""Several sequences in one row without padding: the row, and attention within each sequence."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from phfcli.core.models.language_model import PACKING_SDPA, LanguageModel

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


# (module, query [1, H, T, h], key and value [1, G, T, h], scaling, dropout) -> [1, T, H, h]
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, float | None, float], Tensor]

_LARGEST_ERROR = 0.05  # of a trial, relative; a model that cannot be packed is off by about its whole output
_TRIAL = ((1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12), (1, 2, 3, 13, 14))  # the last begins as the first does
_tried: WeakSet[PreTrainedModel] = WeakSet()


@dataclass(frozen=True)
class CausalSequences:
    """Each token attends to the earlier ones of its own sequence."""

    row: PackedRow

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float
    ) -> Tensor:
        """One call of the fused attention for each sequence.

        A shared beginning is attended from again, and the result left out: the causal kernels want as many queries as
        keys, a mask would be of their product, and attention is cheap beside the layers' own products.
        """
        gqa = query.shape[1] != key.shape[1]
        out: list[Tensor] = []
        for sequence, own in enumerate(self.row.own):
            if own:
                q, k, v = (self.row.gather(x, sequence) for x in (query, key, value))
                attended = scaled_dot_product_attention(
                    q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=gqa
                )
                out.append(attended[:, :, -own:].transpose(1, 2))
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)  # one is saved for the backward pass in any case


def row_arguments(row: PackedRow, attend: Attend) -> dict[str, Any]:
    """What a model is called with for a packed row."""
    return packed_arguments(row.ids, row.positions, attend)


def packed_arguments(ids: Tensor, positions: Tensor, attend: Attend) -> dict[str, Any]:
    """What a model is called with for a row of token ids [T] at `positions` [T]."""
    return {
        "input_ids": ids[None],
        "position_ids": positions[None],
        # of four dimensions: models take it for a mask that is ready, and make none of their own
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
        "use_cache": False,
        "attend": attend,
    }


def can_pack(model: LanguageModel) -> bool:
    """Whether a packed row of this model gives what its sequences give alone.

    A new model is tried once. One that passes keeps the attention that knows packed rows; other models of the process,
    and models that fail, keep transformers' own.
    """
    if model.causal not in _tried:
        _tried.add(model.causal)
        if not (_may_pack(model) and _trial(model)) and not model.attention.startswith("flash"):
            # FlashAttention is not warned of: it leaves padding out by itself
            kind = model.causal.config.model_type
            logging.getLogger(__name__).warning(
                "%s: sequences of one batch are padded, for they cannot be packed", kind
            )
    return bool(model.causal.config._attn_implementation == PACKING_SDPA)


def _may_pack(model: LanguageModel) -> bool:
    """Whether every block attends by torch's sdpa, and to all earlier tokens of the sequence."""
    attention = [getattr(block, "self_attn", None) for block in model.blocks]
    sparse = any(getattr(module, name, None) for module in attention for name in ("sliding_window", "indexer"))
    chunked = getattr(model.causal.config, "attention_chunk_size", None)
    replaceable = model.causal._supports_attention_backend
    return not (model.attention != "sdpa" or not replaceable or None in attention or sparse or chunked)


@torch.no_grad()
def _trial(model: LanguageModel) -> bool:
    """Whether a packed row gives the hidden states of its sequences alone; leaves PACKING_SDPA set if it does."""
    count, training = model.head.shape[0], model.network.training
    sequences = [[token * (count // 17) % count for token in tokens] for tokens in _TRIAL]
    row = pack(sequences, model.device)
    model.network.eval()
    try:
        alone = [model.backbone(input_ids=torch.tensor([ids], device=model.device)) for ids in sequences]
        wanted = torch.cat([out.last_hidden_state[0] for out in alone])
        model.causal.set_attn_implementation(PACKING_SDPA)
        packed = model.backbone(**row_arguments(row, CausalSequences(row))).last_hidden_state[0]
        states = torch.cat([row.gather(packed, sequence) for sequence in range(len(sequences))])
        equal = bool((wanted - states).float().norm() <= _LARGEST_ERROR * wanted.float().norm())
    except (TypeError, ValueError):  # a model that takes no such arguments
        equal = False
    finally:
        model.network.train(training)
    if not equal:
        model.causal.set_attn_implementation("sdpa")
    return equal


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    attend: Attend | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' own sdpa, but for a packed row, which brings its attention along as `attend`."""
    if attend is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    return attend(module, query, key, value, scaling, dropout), None


AttentionInterface.register(PACKING_SDPA, _attention)
AttentionMaskInterface.register(PACKING_SDPA, sdpa_mask)
