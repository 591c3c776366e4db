"""LoRA adapters of a model in memory: a fresh one, a saved one, and one that is cheap to sample with."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError, first_line
from phfcli.core.models.adapters.summary import AdapterSummary, summarise_adapter
from phfcli.core.models.adapters.targets import adapted, choose_targets
from phfcli.core.models.architecture.blocks import find_blocks
from phfcli.core.models.kernels.lora_products import fuse_products, only_products
from phfcli.core.models.kernels.rms_norms import fuse_norms
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.weights import check_complete
from phfcli.core.storage.tensors import open_tensors

_PREFIX = "base_model.model."  # of PEFT, before the names of the model
_ADAPTER = "default"


def add_lora(model: LanguageModel, settings: LoraSettings, seed: int) -> LanguageModel:
    """The same model with a fresh adapter, which is all that trains. Its first output equals the base model's."""
    torch.manual_seed(seed)
    network, summary = lora_network(model.causal, settings)
    return replace(model, network=network, adapter=summary)


def lora_network(causal: PreTrainedModel, settings: LoraSettings) -> tuple[PeftModel, AdapterSummary]:
    """A transformers model with a fresh adapter on the modules that are asked for, on any device, "meta" too.

    Raises:
        UserError: for target modules that it has not, or that cannot be adapted.
    """
    targets, (_, blocks) = choose_targets(causal, settings.target_modules), find_blocks(causal)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=list(targets.names),
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(causal.get_submodule(name), Conv1D) for name in targets.modules),
    )
    try:
        network = get_peft_model(causal, config, low_cpu_mem_usage=causal.device.type == "meta")
    except ValueError as error:
        raise UserError(f"lora.target_modules: {first_line(error)}") from None
    assert isinstance(network, PeftModel)
    if missed := set(targets.modules) ^ {name.removeprefix(_PREFIX) for name in adapted(network)}:
        raise UserError(f"lora.target_modules: PEFT takes another view of {min(missed)} than this program; name others")
    fuse_products(network)
    fuse_norms(network)
    return network, summarise_adapter(network, causal, blocks, targets)


@contextmanager
def cheap_adapter(model: LanguageModel) -> Iterator[None]:
    """Within it a plain adapter costs sampling little; afterwards all weights are as they were, untouched.

    In float32 it is folded into copies of the weights, which saves its own products. In a lower precision its small
    steps would be lost in the rounding there: its own weights are then taken in that precision once, and not anew for
    each token.
    """
    if model.sharded or not (isinstance(model.network, PeftModel) and _is_plain(model.network)):
        yield
        return
    layers: list[Any] = [module for module in model.network.modules() if isinstance(module, LoraLinear)]
    if model.head.dtype == torch.float32:
        bases = [(layer, layer.get_base_layer().weight) for layer in layers]
        folded = {weight: weight.data + layer.get_delta_weight(_ADAPTER) for layer, weight in bases}
        with _replaced(folded), model.network.disable_adapter():
            yield
    else:
        own = [side[_ADAPTER].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
        with _replaced({weight: weight.data.to(model.head.dtype) for weight in own}):
            yield


@contextmanager
def _replaced(values: Mapping[Any, Tensor]) -> Iterator[None]:
    """Within it each of these parameters holds the value that is given for it."""
    kept = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in kept.items():
            parameter.data = value


def _is_plain(network: PeftModel) -> bool:
    """Whether an adapter is nothing but products added to linear layers."""
    config = network.peft_config[_ADAPTER]
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        return False
    layers: list[Any] = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    return all(isinstance(layer, LoraLinear) and only_products(layer, _ADAPTER) for layer in layers)


def load_adapter(causal: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model under a saved adapter. Raises UserError where any of its tensors is missing or too much."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what PEFT warns of is an error below
            network = PeftModel.from_pretrained(causal, str(adapter)).eval()
    except Exception as error:  # PEFT, safetensors and torch each have their own way to refuse a bad file
        raise UserError(f"{adapter}: the adapter does not load onto this model: {first_line(error)}") from None
    with open_tensors(adapter / "adapter_model.safetensors") as file:
        saved = set(file.keys())
    wanted = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    check_complete(str(adapter), {"missing_keys": wanted - saved, "unexpected_keys": saved - wanted})
    fuse_products(network)  # what a training computed with
    return network
