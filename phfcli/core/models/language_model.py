"""Models as the method sees them: L decoder blocks, a final norm and a linear head, with a tokenizer beside them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.errors import UserError, first_line
from phfcli.core.models.allocator import return_large_blocks
from phfcli.core.models.description import ModelCard, from_hub, load_card, pick_device, pick_dtype

# config fields under which logits are not simply head @ hidden, which the fused losses rely on
_LOGIT_TRANSFORMS = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}

# products this small only wait for each other on several threads: far slower wherever another program is at work
ONE_THREAD_WIDTH = 256


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, with or without an adapter.

    Attributes:
        network: what is trained and saved: the model, or the PEFT model around it.
        causal: the transformers model itself; adapters are already injected into its layers.
        card: its tokenizer, and where its completions end.
        compute: the precision of its products, where that is not the weights' own.
    """

    network: PreTrainedModel | PeftModel
    causal: PreTrainedModel
    card: ModelCard
    compute: torch.dtype | None = None

    @property
    def backbone(self) -> nn.Module:
        """Embeddings, blocks and final norm."""
        decoder: nn.Module = self.causal.get_decoder()
        return decoder

    @property
    def blocks(self) -> nn.ModuleList:
        layers = self.backbone.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def head(self) -> Tensor:
        """The LM head, [V, d]."""
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
    def attention(self) -> str:
        """What computes its attention: sdpa, flash_attention_2, eager."""
        return str(self.causal.config._attn_implementation)

    def computing(self) -> AbstractContextManager[Any]:
        """Within it products are computed in the precision of `compute`."""
        return nullcontext() if self.compute is None else torch.autocast(self.device.type, self.compute)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}


def load_model(settings: ModelSettings, adapter: Path | None = None) -> LanguageModel:
    """Loads a model on its device, in evaluation mode, with a saved adapter on top if one is given.

    Raises:
        UserError: where the model cannot be found or read, or the method cannot be applied to it.
    """
    card = load_card(settings.model)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    attention = pick_attention(settings.attention, device, dtype)
    causal: PreTrainedModel = from_hub(
        AutoModelForCausalLM.from_pretrained,
        settings.model,
        "model",
        trust_remote_code=False,
        dtype=dtype,
        **({"attn_implementation": attention} if attention else {}),
    ).to(device)
    check_supported(causal, settings.model)
    if device.type == "cpu" and causal.config.hidden_size <= ONE_THREAD_WIDTH:
        torch.set_num_threads(1)
    elif device.type == "cpu":
        return_large_blocks()
    # only where a completion ends is kept: a model's own sampling defaults must not leak into a protocol
    causal.generation_config = GenerationConfig(eos_token_id=sorted(card.eos_ids), pad_token_id=card.pad_id)
    network = causal.eval() if adapter is None else _load_adapter(causal, adapter)
    return LanguageModel(network, causal, card)


def pick_attention(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The attention of that name; "auto" is FlashAttention 2 where it is installed, else None: transformers' choice.

    That is PyTorch's own (sdpa) for any model that it knows; FlashAttention skips padded columns and takes no float32.
    """
    if name != "auto":
        return name
    flash = device.type == "cuda" and dtype != torch.float32 and is_flash_attn_2_available()
    return "flash_attention_2" if flash else None


def add_lora(model: LanguageModel, settings: LoraSettings, seed: int) -> LanguageModel:
    """The same model with a fresh adapter, which is all that trains. Its first output equals the base model's."""
    torch.manual_seed(seed)
    return LanguageModel(lora_network(model.causal, settings), model.causal, model.card)


def lora_network(causal: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """A transformers model with a fresh adapter around its linear layers, on whatever device it is, "meta" too.

    Raises:
        UserError: for target modules that it has not.
    """
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        network = get_peft_model(causal, config, low_cpu_mem_usage=causal.device.type == "meta")
    except ValueError as error:
        raise UserError(f"lora.target_modules: {first_line(error)}") from None
    assert isinstance(network, PeftModel)
    return network


def load_whole(settings: ModelSettings) -> LanguageModel:
    """A model whose every parameter trains.

    Its weights are float32, whatever precision is computed in: steps at a learning rate of 5e-6, and all the more those
    of an average that follows by a thousandth, would vanish in the rounding of bfloat16.
    """
    model = load_model(settings.model_copy(update={"dtype": "float32"}))
    model.causal.requires_grad_(True)
    compute = pick_dtype(settings.dtype, model.device)
    return model if compute == torch.float32 else replace(model, compute=compute)


@contextmanager
def merged(model: LanguageModel) -> Iterator[None]:
    """Within it a plain float32 adapter is folded into the weights, which saves sampling the adapter's own products.

    The weights themselves come back, untouched: copies are folded. In a lower precision the small steps of an adapter
    would be lost in the rounding, so there it stays as it is.
    """
    exact = model.head.dtype == torch.float32 and not model.sharded
    if not (exact and isinstance(model.network, PeftModel) and _is_plain(model.network)):
        yield
        return
    layers: list[Any] = [module for module in model.network.modules() if isinstance(module, LoraLinear)]
    kept = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight + layer.get_delta_weight("default")
        with model.network.disable_adapter():
            yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.get_base_layer().weight.data = weight


def check_supported(causal: PreTrainedModel, name: str) -> None:
    """Raises UserError for an architecture without blocks to watch, or whose logits are not a plain product."""
    if not isinstance(getattr(causal.get_decoder(), "layers", None), nn.ModuleList):
        raise UserError(f"{name}: {causal.config.model_type} has no list of decoder blocks to capture states from")
    head = causal.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise UserError(f"{name}: its LM head has a bias, which the fused divergence does not know")
    for field, neutral in _LOGIT_TRANSFORMS.items():
        if getattr(causal.config, field, None) not in (None, neutral):
            raise UserError(f"{name}: its config sets {field}, which the fused divergence does not know")


def _is_plain(network: PeftModel) -> bool:
    """Whether an adapter is nothing but products added to linear layers."""
    config = network.peft_config["default"]
    if not isinstance(config, LoraConfig) or config.use_dora or config.modules_to_save or config.bias != "none":
        return False
    return all(isinstance(module, LoraLinear) for module in network.modules() if isinstance(module, BaseTunerLayer))


def _load_adapter(causal: PreTrainedModel, adapter: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(causal, str(adapter)).eval()
    except Exception as error:  # PEFT, safetensors and torch each have their own way to refuse a bad file
        raise UserError(f"{adapter}: the adapter does not load onto this model: {first_line(error)}") from None
