"""Gradient checkpointing for long rollouts: what is computed again is held for a tile of tokens at a time.

transformers keeps the input of each block and computes the block again in the backward pass. All that the MLP makes of
a whole sequence then stands there at once, several times the width of the model for each token, and for long sequences
more than all checkpoints together. An MLP works on each token alone, so it is computed, and computed again, tile by
tile. Shorter sequences are computed as before, to the bit.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from phfcli.core.models.architecture.blocks import find_blocks

TILE = 1024  # tokens


def checkpoint_gradients(causal: PreTrainedModel) -> None:
    """Lets activations be computed again in the backward pass, rather than kept for it."""
    causal.gradient_checkpointing_enable({"use_reentrant": False})
    for block in find_blocks(causal)[1]:
        mlp = getattr(block, "mlp", None)
        if isinstance(mlp, nn.Module) and not _shares_out(mlp):
            mlp.forward = partial(_in_tiles, mlp.forward)


def _shares_out(mlp: nn.Module) -> bool:
    """Whether it gives tokens to experts: what it tells of them is of the whole sequence."""
    return any("expert" in name or "router" in name for name, _ in mlp.named_modules())


def _in_tiles(forward: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """[B, T, d] -> [B, T, d]."""
    tiles = hidden.split(TILE, dim=1)
    if len(tiles) == 1:
        return forward(hidden)
    if not torch.is_grad_enabled():
        return torch.cat([forward(tile) for tile in tiles], dim=1)
    return torch.cat([checkpoint(forward, tile, use_reentrant=False) for tile in tiles], dim=1)
