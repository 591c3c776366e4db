"""What an intermediate block would predict and where it attends, beside the last block, from the pass that is made.

Nothing is computed twice: the block's output, and the queries and keys of the two blocks, are kept as the pass makes
them. Under grad autograd holds them in any case; with gradient checkpointing these few are what is held besides.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.errors import UserError
from phfcli.core.losses.hidden_states.attention import Attention
from phfcli.core.models.architecture.blocks import final_norm, find_blocks, find_decoder
from phfcli.core.models.architecture.sizes import width_of
from phfcli.core.models.language_model import LanguageModel

_SHARE_OF_DEPTH = 6  # layer 6 of 36, as OISD has it for Qwen3-4B and 8B


@dataclass(frozen=True)
class LogitLens:
    """The shadow student, and the last block's attention as its teacher. N valid tokens, d hidden size."""

    hidden: Tensor  # [N, d], the block's output after the final norm, at the column that predicts each valid token
    attention: Attention
    last: Attention


def lens_layer(wanted: int, depth: int) -> int:
    """The block of a model of `depth` blocks, 1 is the first; 0 is the one at a sixth of the depth."""
    return wanted or max(1, round(depth / _SHARE_OF_DEPTH))


def check_logit_lens(causal: PreTrainedModel, wanted: int) -> None:
    """Raises UserError where no block lies below the last one, or attention cannot be captured; reads no weight."""
    blocks, kind = find_blocks(causal)[1], causal.config.model_type
    depth, norm = len(blocks), final_norm(find_decoder(causal), blocks, width_of(causal.config))
    if lens_layer(wanted, depth) >= depth:
        raise UserError(f"oisd.layer: must lie below the last of the model's {depth} decoder blocks, got {wanted}")
    attention = [getattr(block, "self_attn", None) for block in blocks]
    if not causal._supports_attention_backend or None in attention or norm is None:
        raise UserError(f"{kind}: its attention cannot be captured, which oisd needs")
    if any(getattr(module, "sliding_window", None) for module in attention):
        raise UserError(f"{kind}: some of its blocks attend to a sliding window, which oisd does not know")


@contextmanager
def capture_logit_lens(
    model: LanguageModel, wanted: int | None
) -> Iterator[Callable[[Tensor, Tensor], LogitLens | None]]:
    """Within it a pass leaves a LogitLens, read afterwards at rows and columns [N]; with None it leaves nothing."""
    if wanted is None:
        yield lambda _rows, _columns: None
        return
    block, last = model.blocks[lens_layer(wanted, len(model.blocks)) - 1], model.blocks[-1]
    attention = _self_attention(block), _self_attention(last)
    outputs: list[Any] = []
    handle = block.register_forward_hook(lambda _module, _args, output: outputs.append(output))

    def lens(rows: Tensor, columns: Tensor) -> LogitLens:
        state = outputs[0] if isinstance(outputs[0], Tensor) else outputs[0][0]  # [B, T, d]
        return LogitLens(model.final_norm(state[rows, columns]), *(kept[module] for module in attention))

    try:
        with _capture_attention(model.causal.config, attention) as kept:
            yield lens
    finally:
        handle.remove()


def _self_attention(block: nn.Module) -> nn.Module:
    module = block.self_attn
    assert isinstance(module, nn.Module)
    return module


@contextmanager
def _capture_attention(config: Any, modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Attention]]:
    """Keeps what the attention function of `modules` is called with, by standing in its place within the context.

    Gradient checkpointing runs a block again after the context, and then finds the function itself: the operations are
    the same, since none is added here.
    """
    name = config._attn_implementation
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    kept: dict[nn.Module, Attention] = {}

    def watched(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **options: Any) -> Any:
        if module in modules:
            kept[module] = Attention(query, key, options["scaling"])
        # "eager" stands in no table: each model brings its own
        attend = function or sys.modules[type(module).__module__].eager_attention_forward
        return attend(module, query, key, *args, **options)

    ALL_ATTENTION_FUNCTIONS[name] = watched
    try:
        yield kept
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
