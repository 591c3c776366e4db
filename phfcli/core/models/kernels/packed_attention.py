"""Attention of sequences that lie in one packed row: nothing is computed on padding, and a shared beginning once.

Every layer but attention works on each token alone, so the row may hold tokens of any sequences; attention is told by
`attend`, an argument that models hand through to their attention function, which tokens belong together. Whether a
model does hand it through is tried on the model itself.

Shapes: H heads, G key-value heads, T tokens of the row, h head size.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from phfcli.core.models.kernels.packed_row import PackedRow, pack
from phfcli.core.models.language_model import LanguageModel

# (module, query [1, H, T, h], key and value [1, G, T, h], scaling, dropout) -> [1, T, H, h]
Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, float | None, float], Tensor]

_LARGEST_ERROR = 0.05  # of a trial, relative; a model that cannot be packed is off by about its whole output
_TRIAL = ((1, 2, 3, 4, 5, 6, 7), (8, 9, 10, 11, 12), (1, 2, 3, 13, 14))  # the last begins as the first does
_known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


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


@dataclass(frozen=True)
class _HandedThrough:
    """One type for every kind of attention: compiled blocks are compiled again for each type that they meet."""

    attend: Attend

    def __call__(self, *arguments: Any) -> Tensor:
        return self.attend(*arguments)


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
        "attend": _HandedThrough(attend),
    }


def can_pack(model: LanguageModel) -> bool:
    """Whether a packed row of this model gives what its sequences give alone; a new model is tried once."""
    if model.causal not in _known:
        _known[model.causal] = _fits(model) and _trial(model)
        if not _known[model.causal] and not model.attention.startswith("flash"):  # which leaves padding out by itself
            kind = model.causal.config.model_type
            logging.getLogger(__name__).warning(
                "%s: sequences of one batch are padded, for they cannot be packed", kind
            )
    return _known[model.causal]


def _fits(model: LanguageModel) -> bool:
    """Attention by torch in every block, over the whole sequence."""
    attention = [getattr(block, "self_attn", None) for block in model.blocks]
    windows = any(getattr(module, "sliding_window", None) for module in attention)
    chunked = getattr(model.causal.config, "attention_chunk_size", None)
    return not (model.attention != "sdpa" or None in attention or windows or chunked)


@torch.no_grad()
def _trial(model: LanguageModel) -> bool:
    count, training = model.head.shape[0], model.network.training
    sequences = [[token * (count // 17) % count for token in tokens] for tokens in _TRIAL]
    row = pack(sequences, model.device)
    model.network.eval()
    try:
        alone = [model.backbone(input_ids=torch.tensor([ids], device=model.device)) for ids in sequences]
        wanted = torch.cat([out.last_hidden_state[0] for out in alone])
        packed = model.backbone(**row_arguments(row, CausalSequences(row))).last_hidden_state[0]
        found = torch.cat([row.gather(packed, sequence) for sequence in range(len(sequences))])
    except (TypeError, ValueError):  # a model that takes no such arguments
        return False
    finally:
        model.network.train(training)
    return bool((wanted - found).float().norm() <= _LARGEST_ERROR * wanted.float().norm())


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
    """transformers' own "sdpa", but for a row that says how it is to be attended."""
    if attend is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    return attend(module, query, key, value, scaling, dropout), None


AttentionInterface.register("sdpa", _attention)
