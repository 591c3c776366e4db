"""Puts a LoRA adapter on a model, loads one, and checks that it is saved, read and trained."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError, first_line
from phfcli.core.models.adapters import AdapterSummary, adapted, choose_targets, summarise_adapter
from phfcli.core.models.architecture import find_blocks
from phfcli.core.models.description import LOADING
from phfcli.core.models.device import same_random_state
from phfcli.core.models.kernels import fuse_norms, fuse_products, only_products
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.weights import check_complete
from phfcli.core.storage.files import new_folder
from phfcli.core.storage.tensors import open_tensors

_PREFIX = "base_model.model."  # PEFT puts it before the names of the model
_ADAPTER, _READ_BACK = "default", "read-back"  # PEFT's names of the adapter that trains, and of the one read back


def add_lora(model: LanguageModel, settings: LoraSettings, seed: int) -> LanguageModel:
    """The same model with a fresh adapter, the only part that trains. Its first output equals the base model's."""
    torch.manual_seed(seed)
    network, summary = lora_network(model.causal, settings)
    return replace(model, network=network, adapter=summary)


def lora_network(causal: PreTrainedModel, settings: LoraSettings) -> tuple[PeftModel, AdapterSummary]:
    """A transformers model on any device, "meta" too, with a fresh adapter on lora.target_modules.

    Raises:
        UserError: for target modules that the model lacks, or that cannot be adapted.
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
        raise UserError(
            f"lora.target_modules: PEFT and this program disagree on whether {min(missed)} is adapted; name others"
        )
    fuse_products(network)
    fuse_norms(network)
    return network, summarise_adapter(network, causal, blocks, targets)


@contextmanager
def adapter_for_sampling(model: LanguageModel) -> Iterator[None]:
    """Within it sampling with a plain adapter is cheaper; afterwards all weights are bitwise as before.

    In float32 the adapter is merged into copies of the weights, which saves its products. In a lower precision merging
    would round its small steps away: only its own two matrices are converted, once instead of for each token.
    """
    if model.sharded or not (isinstance(model.network, PeftModel) and _is_plain(model.network)):
        yield
        return
    layers: list[Any] = [module for module in model.network.modules() if isinstance(module, LoraLinear)]
    if model.head.dtype == torch.float32:
        bases = [(layer, layer.get_base_layer().weight) for layer in layers]
        merged = {weight: weight.data + layer.get_delta_weight(_ADAPTER) for layer, weight in bases}
        with _replaced(merged), model.network.disable_adapter():
            yield
    else:
        matrices = [side[_ADAPTER].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
        with _replaced({weight: weight.data.to(model.head.dtype) for weight in matrices}):
            yield


@contextmanager
def _replaced(values: Mapping[Any, Tensor]) -> Iterator[None]:
    """Within it each parameter holds the value given for it."""
    saved = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in saved.items():
            parameter.data = value


def _is_plain(network: PeftModel) -> bool:
    """Whether an adapter only adds products of two matrices to linear layers."""
    config = network.peft_config[_ADAPTER]
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none":
        return False
    layers: list[Any] = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    return all(isinstance(layer, LoraLinear) and only_products(layer, _ADAPTER) for layer in layers)


def load_adapter(causal: PreTrainedModel, adapter: Path) -> PeftModel:
    """The model with a saved adapter. Raises UserError where a tensor of the adapter is missing or unexpected."""
    try:
        with LOADING, warnings.catch_warnings(action="ignore"):  # whatever PEFT warns of is an error below
            network = PeftModel.from_pretrained(causal, str(adapter)).eval()
    except Exception as error:  # PEFT, safetensors and torch each raise errors of their own
        raise UserError(f"{adapter}: the adapter does not load onto this model: {first_line(error)}") from None
    with open_tensors(adapter / "adapter_model.safetensors") as file:
        saved = set(file.keys())
    wanted = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    check_complete(str(adapter), {"missing_keys": wanted - saved, "unexpected_keys": saved - wanted})
    fuse_products(network)  # as in training
    return network


TOKENS = 16  # of the sequence that the check passes through the model
_NOISE = 0.02  # standard deviation
_SAME = 1e-3  # the largest difference after reading back, relative to the adapter's effect on the logits


def check_round_trip(model: LanguageModel, ids: Sequence[int]) -> None:
    """Checks the gradient of each adapted module; then saves the adapter, reads it back with PEFT, and compares.

    Args:
        model: with a fresh adapter.
        ids: token ids of a text of the run, for the passes of the check.

    Raises:
        UserError: naming a module whose adapter would not be saved, read or trained.
    """
    assert isinstance(model.network, PeftModel)
    count = min(TOKENS, model.description.context)
    tokens = torch.tensor([list(islice(cycle(ids), count))], device=model.device)
    with _restored(model):
        _check_gradients(model, tokens)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix="phf-") as folder:
            _check_files(model, model.network, tokens, Path(folder))


def _check_files(model: LanguageModel, network: PeftModel, tokens: Tensor, folder: Path) -> None:
    for p in _sides(network, "lora_B", _ADAPTER).values():
        p.normal_(std=_NOISE)
    with network.disable_adapter():
        base = _logits(model, tokens)
    adapted_logits = _logits(model, tokens)
    with new_folder(folder / "adapter") as target:  # it names the file if the disk is at fault
        network.save_pretrained(str(target), save_embedding_layers=False)
    _read_back(network, folder / "adapter")
    read = _logits(model, tokens)
    effect, difference = _distance(adapted_logits, base), _distance(adapted_logits, read)
    if not effect > 0:
        raise UserError(
            "lora: an adapter with random weights does not change what the model computes; name other target_modules"
        )
    if not difference <= _SAME * effect:
        raise UserError(
            f"lora: a saved adapter computes something else when it is read, by {difference:.2g} in the logits"
        )


def _read_back(network: PeftModel, folder: Path) -> None:
    """Loads the saved adapter beside the one that trains, and activates it."""
    try:
        network.load_adapter(str(folder), adapter_name=_READ_BACK)
    except Exception as error:  # PEFT, safetensors and torch each raise errors of their own
        raise UserError(f"lora: PEFT does not read the adapter that it has saved: {first_line(error)}") from None
    for side in ("lora_A", "lora_B"):
        saved, read = _sides(network, side, _ADAPTER), _sides(network, side, _READ_BACK)
        for name, p in saved.items():
            if name not in read or not torch.equal(p, read[name]):
                raise UserError(f"lora: {name} is lost when the adapter is saved; leave it out of lora.target_modules")
    network.set_adapter(_READ_BACK)


def _check_gradients(model: LanguageModel, tokens: Tensor) -> None:
    """With lora_B at zero the gradient of a module is zero only if nothing flows through it."""
    loss = nn.functional.cross_entropy(_logits(model, tokens)[0, :-1], tokens[0, 1:])
    sides = _sides(model.network, "lora_B", _ADAPTER)
    # not .backward(), which would leave gradients in all parameters
    gradients = torch.autograd.grad(loss, list(sides.values()), allow_unused=True)
    for name, gradient in zip(sides, gradients, strict=True):
        if (gradient is None or not gradient.any()) and ".experts." not in name:  # an expert may have no token
            raise UserError(
                f"lora: {name} gets no gradient, so the adapter would not train there: the model's code goes past the "
                "module; name others in lora.target_modules"
            )


@contextmanager
def _restored(model: LanguageModel) -> Iterator[None]:
    """Afterwards the adapter's weights, the active adapter, the random state and the training mode are as before."""
    network, mode = model.network, model.network.training
    assert isinstance(network, PeftModel)
    before = {name: p.detach().clone() for name, p in _sides(network, "lora_B", _ADAPTER).items()}
    network.eval()
    try:
        with same_random_state(model.device):
            yield
    finally:
        if _READ_BACK in network.peft_config:
            network.set_adapter(_ADAPTER)
            network.delete_adapter(_READ_BACK)
        for name, p in _sides(network, "lora_B", _ADAPTER).items():
            p.data.copy_(before[name])
        network.train(mode)


def _sides(network: nn.Module, side: str, adapter: str) -> Mapping[str, nn.Parameter]:
    """The matrix `side` ("lora_A" or "lora_B") of every adapted module, by the module's name."""
    parameters = {}
    for name, module in adapted(network).items():
        matrices = getattr(module, side, {})
        if adapter in matrices:
            parameters[name.removeprefix(_PREFIX)] = matrices[adapter].weight
    return parameters


def _logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with model.computing():
        logits: Tensor = model.causal(input_ids=tokens, use_cache=False).logits
    return logits.float()


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
