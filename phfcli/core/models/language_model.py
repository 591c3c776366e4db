"""A loaded model as the method sees it, and what a pass leaves: captured states, and the logit lens.

The logit lens is a block's states read by the model's norm and head.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.losses.head import Head
from phfcli.core.losses.pointwise import Attention
from phfcli.core.models.adapters import AdapterSummary
from phfcli.core.models.architecture import final_norm, find_blocks, find_decoder, head_of
from phfcli.core.models.description import ModelDescription

# attribute of a fully sharded model: calls the backbone, with the weights gathered for the pass
READ_WITHOUT_HEAD = "read_without_head"
# transformers' sdpa that also attends within each sequence of a packed row (packing.py), by its name in transformers
PACKING_SDPA = "phf_sdpa"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, with or without an adapter.

    Attributes:
        network: what is trained and saved: the model, or the PEFT model around it.
        causal: the transformers model; PEFT has injected any adapter into its layers.
        description: its config, tokenizer and end-of-sequence tokens.
        compute: the precision of its products; None is that of the weights.
        adapter: the summary of a fresh adapter; None without one.
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
        """The LM head with its bias, scale and soft cap."""
        return head_of(self.causal)

    @cached_property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the head; the identity where there is none."""
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
    def has_adapter(self) -> bool:
        """Whether an adapter is around the model."""
        return isinstance(self.network, PeftModel)

    @property
    def sharded(self) -> bool:
        """Whether the weights of the blocks are sharded over ranks."""
        return isinstance(self.blocks[0], FSDPModule)

    @property
    def fully_sharded(self) -> bool:
        """Whether the weights outside the blocks are sharded as well."""
        return isinstance(self.causal, FSDPModule)

    @property
    def attention(self) -> str:
        """The name of its attention: sdpa, flash_attention_2 or eager."""
        name = str(self.causal.config._attn_implementation)
        return "sdpa" if name == PACKING_SDPA else name

    def read(self, **arguments: Any) -> Tensor:
        """A pass without the head: the last hidden states, after the final norm."""
        call: Any = getattr(self.causal, READ_WITHOUT_HEAD, self.backbone)
        hidden: Tensor = call(**arguments).last_hidden_state
        return hidden

    def head_after_pass(self) -> Head:
        """The head for the losses, to be called after a pass.

        In a fully sharded model the pass has gathered the head, which stays whole until the end of its backward pass.
        After a pass without gradients it is a copy, and the weights are sharded again.
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


@contextmanager
def capture_states(blocks: Sequence[nn.Module], at: tuple[Tensor, Tensor]) -> Iterator[Callable[[], Tensor]]:
    """Captures the blocks' outputs at rows and columns [B, m]; the value it yields stacks them to [L, B, m, d]."""
    kept: dict[int, Tensor] = {}

    def keep(index: int, output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, Tensor):
            output, kept[index] = _Select.apply(output, *at)  # type: ignore[no-untyped-call]
            return output
        state, kept[index] = _Select.apply(output[0], *at)  # type: ignore[no-untyped-call]
        return state, *output[1:]

    def stack() -> Tensor:
        return torch.stack([kept[index] for index in range(len(blocks))])

    handles = [
        block.register_forward_hook(lambda _module, _args, output, index=index: keep(index, output))
        for index, block in enumerate(blocks)
    ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


class _Select(torch.autograd.Function):
    """A block's output [B, T, d] -> (the output itself, its states at rows and columns [B, m]).

    The gradient of the selected states is added to that of the output, which comes from the blocks above. Plain
    indexing would make a gradient [B, T, d] for each block, and all of them at the start of the backward pass. Only
    the indices are kept for the backward pass: gradient checkpointing runs the block again without the hook.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        ctx.at = rows, columns
        return state.view_as(state), state[rows, columns]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_state: Tensor, grad_selected: Tensor) -> tuple[Tensor, None, None]:
        return grad_state.index_put(ctx.at, grad_selected, accumulate=True), None, None


_SHARE_OF_DEPTH = 6  # OISD takes layer 6 of 36 of Qwen3-4B and 8B


@dataclass(frozen=True)
class LogitLens:
    """What OISD reads of a lower block (its shadow student), and the attention of the last block as its teacher."""

    hidden: Tensor  # [N, d], the block's output after the final norm, for each of N valid tokens
    attention: Attention  # of the block
    last: Attention  # of the last block


def lens_layer(wanted: int, depth: int) -> int:
    """The number of the block, 1 is the first; `wanted` 0 asks for the one at a sixth of the depth."""
    return wanted or max(1, round(depth / _SHARE_OF_DEPTH))


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
        with capture_attention(model.causal.config, attention) as kept:
            yield lens
    finally:
        handle.remove()


def _self_attention(block: nn.Module) -> nn.Module:
    module = block.self_attn
    assert isinstance(module, nn.Module)
    return module


@contextmanager
def capture_attention(config: Any, modules: Sequence[nn.Module]) -> Iterator[dict[nn.Module, Attention]]:
    """Within it, keeps the queries and keys with which `modules` call their attention function.

    Gradient checkpointing runs a block again after the context, with the plain function: the watched one adds no
    operation, so both compute the same.
    """
    name = config._attn_implementation
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    kept: dict[nn.Module, Attention] = {}

    def watched(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **options: Any) -> Any:
        if module in modules:
            kept[module] = Attention(query, key, options["scaling"])
        # transformers' table has no "eager": each model's module defines its own
        attend = function or sys.modules[type(module).__module__].eager_attention_forward
        return attend(module, query, key, *args, **options)

    ALL_ATTENTION_FUNCTIONS[name] = watched
    try:
        yield kept
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
