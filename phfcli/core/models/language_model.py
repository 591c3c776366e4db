"""A loaded model as the method sees it, and its states read by its own norm and head (the logit lens)."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.errors import UserError
from phfcli.core.losses.head import Head
from phfcli.core.losses.pointwise import Attention
from phfcli.core.models.adapters import AdapterSummary
from phfcli.core.models.architecture import final_norm, find_blocks, find_decoder, head_of
from phfcli.core.models.description import ModelDescription, width_of

READ = "read_without_head"  # of a model whose weights are all spread over ranks: the backbone, gathered for a pass
# transformers' sdpa that also attends within each sequence of a packed row (packing.py), by its name in transformers
PACKING_SDPA = "phf_sdpa"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, with or without an adapter.

    Attributes:
        network: what is trained and saved: the model, or the PEFT model around it.
        causal: the transformers model itself; adapters are already injected into its layers.
        description: its tokenizer, and where its completions end.
        compute: the precision of its products, where that is not the weights' own.
        adapter: what a fresh adapter on it covers.
    """

    network: PreTrainedModel | PeftModel
    causal: PreTrainedModel
    description: ModelDescription
    compute: torch.dtype | None = None
    adapter: AdapterSummary | None = None

    @cached_property
    def backbone(self) -> nn.Module:
        """Embeddings, blocks and final norm."""
        return find_decoder(self.causal)

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks. Raises UserError for an architecture without a list of them."""
        return find_blocks(self.causal)[1]

    @property
    def output_head(self) -> Head:
        """The LM head with what stands behind its product."""
        return head_of(self.causal)

    @cached_property
    def final_norm(self) -> nn.Module:
        """What the last block's output goes through before the head reads it."""
        return final_norm(self.backbone, self.blocks, self.head.shape[1]) or nn.Identity()

    @property
    def head(self) -> Tensor:
        """The weight of the LM head, [V, d]."""
        weight: Tensor = self.causal.get_output_embeddings().weight
        return weight

    @property
    def device(self) -> torch.device:
        return self.head.device

    @property
    def sharded(self) -> bool:
        """Whether the blocks' weights are spread over ranks."""
        return isinstance(self.blocks[0], FSDPModule)

    @property
    def fully_sharded(self) -> bool:
        """Whether the weights outside the blocks are as well."""
        return isinstance(self.causal, FSDPModule)

    @property
    def attention(self) -> str:
        """What computes its attention: sdpa, flash_attention_2, eager."""
        name = str(self.causal.config._attn_implementation)
        return "sdpa" if name == PACKING_SDPA else name

    def read(self, **arguments: Any) -> Tensor:
        """A pass without the head: the last hidden states, after the final norm."""
        read: Any = getattr(self.causal, READ, self.backbone)
        hidden: Tensor = read(**arguments).last_hidden_state
        return hidden

    def head_after_pass(self) -> Head:
        """The head that a pass leaves for the losses.

        Where all weights are spread over ranks it is whole until the end of the backward pass. A pass that has none
        leaves a copy, so that the next one finds the weights as they are then.
        """
        head = self.output_head
        if isinstance(self.causal, FSDPModule) and not torch.is_grad_enabled():
            head = head.clone()
            self.causal.reshard()
        return head

    def computing(self) -> AbstractContextManager[Any]:
        """Within it products are computed in the precision of `compute`."""
        return nullcontext() if self.compute is None else torch.autocast(self.device.type, self.compute)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}


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
