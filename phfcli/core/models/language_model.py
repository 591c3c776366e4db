"""Models as the method sees them: L decoder blocks, a final norm and a linear head, with a tokenizer beside them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from phfcli.core.losses.head import Head
from phfcli.core.models.adapters.summary import AdapterSummary
from phfcli.core.models.architecture.blocks import final_norm, find_blocks, find_decoder
from phfcli.core.models.architecture.output_head import head_of
from phfcli.core.models.description import ModelDescription

READ = "read_without_head"  # of a model whose weights are all spread over ranks: the backbone, gathered for a pass


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
        return str(self.causal.config._attn_implementation)

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
