"""A LoRA adapter on a model: how it is put there, and the check that it is computed."""

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
from phfcli.core.models.kernels import fuse_norms, fuse_products, only_products
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.weights import check_complete
from phfcli.core.storage.files import new_folder
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


TOKENS = 16  # of the sequence that is passed through
_OWN, _READ = "default", "read-back"  # PEFT's names of the two adapters
_NOISE = 0.02  # standard deviation
_SAME = 1e-3  # of the adapter's own effect, that the one read back may differ by


def check_round_trip(model: LanguageModel, ids: Sequence[int]) -> None:
    """Saves an adapter, reads it as PEFT does, and compares; then looks at each module's gradient.

    Args:
        model: with a fresh adapter.
        ids: a text of the run's own, which both are looked at with.

    Raises:
        UserError: naming the module that would not be saved, not be read, or not be trained.
    """
    assert isinstance(model.network, PeftModel)
    count = min(TOKENS, model.description.context)
    tokens = torch.tensor([list(islice(cycle(ids), count))], device=model.device)
    with _undisturbed(model):
        _check_gradients(model, tokens)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix="phf-") as folder:
            _check_files(model, model.network, tokens, Path(folder))


def _check_files(model: LanguageModel, network: PeftModel, tokens: Tensor, folder: Path) -> None:
    for p in _sides(network, "lora_B", _OWN).values():
        p.normal_(std=_NOISE)
    with network.disable_adapter():
        base = _logits(model, tokens)
    own = _logits(model, tokens)
    with new_folder(folder / "adapter") as target:  # which names the file where the disk is at fault
        network.save_pretrained(str(target), save_embedding_layers=False)
    _read_back(network, folder / "adapter")
    read = _logits(model, tokens)
    effect, apart = _distance(own, base), _distance(own, read)
    if not effect > 0:
        raise UserError(
            "lora: an adapter with weights in it does not change what the model computes; name other targets"
        )
    if not apart <= _SAME * effect:
        raise UserError(f"lora: a saved adapter computes something else when it is read, by {apart:.2g} in the logits")


def _read_back(network: PeftModel, folder: Path) -> None:
    """Loads the saved adapter beside the present one and leaves it active."""
    try:
        network.load_adapter(str(folder), adapter_name=_READ)
    except Exception as error:  # PEFT, safetensors and torch each have their own way to refuse a file
        raise UserError(f"lora: PEFT does not read the adapter that it has saved: {first_line(error)}") from None
    for side in ("lora_A", "lora_B"):
        saved, read = _sides(network, side, _OWN), _sides(network, side, _READ)
        for name, p in saved.items():
            if name not in read or not torch.equal(p, read[name]):
                raise UserError(f"lora: {name} is lost when the adapter is saved; leave it out of lora.target_modules")
    network.set_adapter(_READ)


def _check_gradients(model: LanguageModel, tokens: Tensor) -> None:
    """With lora_B at zero the gradient of a module is zero only if nothing flows through it."""
    loss = nn.functional.cross_entropy(_logits(model, tokens)[0, :-1], tokens[0, 1:])
    sides = _sides(model.network, "lora_B", _OWN)
    # not .backward(): other parameters' gradients are none of this check's business
    gradients = torch.autograd.grad(loss, list(sides.values()), allow_unused=True)
    for name, gradient in zip(sides, gradients, strict=True):
        if (gradient is None or not gradient.any()) and ".experts." not in name:  # an expert may have no token
            raise UserError(
                f"lora: {name} gets no gradient, so the adapter would not train there: the model's code goes past the "
                "module; name others in lora.target_modules"
            )


@contextmanager
def _undisturbed(model: LanguageModel) -> Iterator[None]:
    """Brings back the adapter, its being the active one, the random state and the mode."""
    network, mode = model.network, model.network.training
    assert isinstance(network, PeftModel)
    kept = {name: p.detach().clone() for name, p in _sides(network, "lora_B", _OWN).items()}
    devices = [model.device] if model.device.type == "cuda" else []
    network.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        if _READ in network.peft_config:
            network.set_adapter(_OWN)
            network.delete_adapter(_READ)
        for name, p in _sides(network, "lora_B", _OWN).items():
            p.data.copy_(kept[name])
        network.train(mode)


def _sides(network: nn.Module, side: str, adapter: str) -> Mapping[str, nn.Parameter]:
    """One of the two matrices of every adapted module, by the module's name."""
    found = {}
    for name, module in adapted(network).items():
        matrices = getattr(module, side, {})
        if adapter in matrices:
            found[name.removeprefix("base_model.model.")] = matrices[adapter].weight
    return found


def _logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with model.computing():
        logits: Tensor = model.causal(input_ids=tokens, use_cache=False).logits
    return logits.float()


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
