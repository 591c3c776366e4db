"""LoRA adapters of a model in memory: a fresh one, a saved one, and one folded into the weights for sampling."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError, first_line
from phfcli.core.models.kernels.lora_products import fuse_products
from phfcli.core.models.language_model import LanguageModel


def add_lora(model: LanguageModel, settings: LoraSettings, seed: int) -> LanguageModel:
    """The same model with a fresh adapter, which is all that trains. Its first output equals the base model's."""
    torch.manual_seed(seed)
    return LanguageModel(lora_network(model.causal, settings), model.causal, model.description)


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
    fuse_products(network)
    return network


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


def _is_plain(network: PeftModel) -> bool:
    """Whether an adapter is nothing but products added to linear layers."""
    config = network.peft_config["default"]
    if not isinstance(config, LoraConfig) or config.use_dora or config.modules_to_save or config.bias != "none":
        return False
    return all(isinstance(module, LoraLinear) for module in network.modules() if isinstance(module, BaseTunerLayer))


def load_adapter(causal: PreTrainedModel, adapter: Path) -> PeftModel:
    try:
        return PeftModel.from_pretrained(causal, str(adapter)).eval()
    except Exception as error:  # PEFT, safetensors and torch each have their own way to refuse a bad file
        raise UserError(f"{adapter}: the adapter does not load onto this model: {first_line(error)}") from None
