"""LoRA adapters: the linear layers that one is put on, a summary of it, and the check of its files."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from phfcli.core.errors import UserError, nearest
from phfcli.core.models.architecture import find_blocks
from phfcli.core.models.description import ModelDescription, skeleton
from phfcli.core.models.weights import check_finite
from phfcli.core.storage.schemas import AdapterForm, read_form
from phfcli.core.storage.tensors import open_tensors, read_tensors

ALL_LINEAR = "all-linear"
# Mamba and Jamba read the weight of this layer without calling it, which PEFT does not know of all of them;
# `check_round_trip` finds any other such layer
_NEVER_CALLED = ("dt_proj",)
_FUSED = "several matrices in one tensor (fused experts)"


@dataclass(frozen=True)
class Targets:
    """The full names of the modules to adapt, the names that PEFT is given, and a line for each matrix left out."""

    modules: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()


class LinearLayers:
    """The linear layers of a model's blocks, and which of them can be adapted."""

    def __init__(self, causal: PreTrainedModel) -> None:
        self._causal = causal
        self.prefix, self.blocks = find_blocks(causal)
        self.by_block = [self._layers(number, block) for number, block in enumerate(self.blocks)]

    @cached_property
    def leaves(self) -> list[str]:
        """The distinct names of the layers without those of the modules around them, sorted."""
        return sorted({leaf(name) for names in self.by_block for name in names})

    @cached_property
    def refused(self) -> dict[str, str]:
        """The names that PEFT cannot adapt, each with the reason."""
        config = LoraConfig(target_modules=self.leaves)
        uncalled = sorted(name for name in self.leaves if name in _NEVER_CALLED or self._uncalled(config, name))
        reasons = dict.fromkeys(uncalled, "the model's code reads its weight instead of calling it")
        convert_peft_config_for_transformers(config, self._causal, None)
        accepted: Any = config.target_modules
        others = set(self.leaves) - set(accepted)
        return reasons | dict.fromkeys(sorted(others), "PEFT reads this name as the fused experts'")

    @cached_property
    def fused(self) -> list[str]:
        """Modules of the blocks that hold several matrices in one tensor, such as experts, by name within a block."""
        return sorted(
            {
                name
                for block in self.blocks
                for name, module in block.named_modules()
                if not isinstance(module, nn.modules.conv._ConvNd)
                and any(p.dim() == 3 and min(p.shape) > 1 for p in module.parameters(recurse=False))
            }
        )

    def _layers(self, number: int, block: nn.Module) -> list[str]:
        return [f"{self.prefix}.{number}.{name}" for name, module in block.named_modules() if _linear(module)]

    def _uncalled(self, config: LoraConfig, name: str) -> bool:
        """Whether PEFT knows that the model's code never calls the module, so that an adapter would have no effect."""
        try:
            _check_lora_target_modules_mamba(config, self._causal, name)
        except ValueError:
            return True
        return False


def choose_targets(causal: PreTrainedModel, wanted: tuple[str, ...] | str) -> Targets:
    """The modules that lora.target_modules names.

    Raises:
        UserError: for a name that the blocks do not have or that cannot be adapted, and for a block left without any.
    """
    layers = LinearLayers(causal)
    everything = wanted in (ALL_LINEAR, (ALL_LINEAR,))
    asked = [name for name in layers.leaves if name not in layers.refused] if everything else list(wanted)
    if not everything:
        _check_names(layers, asked)
    chosen = [[name for name in names if _named(name, asked)] for names in layers.by_block]
    for number, names in enumerate(chosen):
        if not names:
            present = ", ".join(sorted(map(leaf, layers.by_block[number]))) or "no linear layer"
            raise UserError(
                f"lora.target_modules: {', '.join(asked) or ALL_LINEAR} is not in block {number + 1} "
                f"of {len(chosen)}, which has {present}; use {ALL_LINEAR}, or name some of these too"
            )
    modules = tuple(name for names in chosen for name in names)
    return Targets(modules, _short(causal, modules), _left_out(layers) if everything else ())


def leaf(name: str) -> str:
    """A module's name without those of the modules around it."""
    return name.rpartition(".")[2]


def adapted(network: nn.Module) -> dict[str, BaseTunerLayer]:
    """The modules of a network that carry an adapter, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


def counts(names: Iterable[str]) -> Mapping[str, int]:
    """How many modules have each name, the names in the order of a block."""
    return Counter(map(leaf, names))


def _check_names(layers: LinearLayers, asked: list[str]) -> None:
    available = f"its decoder blocks have {', '.join(layers.leaves)}; use these or {ALL_LINEAR}"
    for name in asked:
        if leaf(name) in layers.refused:
            raise UserError(f"lora.target_modules: {name} cannot be adapted: {layers.refused[leaf(name)]}")
        if not any(_named(module, [name]) for names in layers.by_block for module in names):
            raise UserError(f"lora.target_modules: {_why_not(layers, name)}; {available}")


def _why_not(layers: LinearLayers, name: str) -> str:
    """Why the blocks have no linear layer of that name that can be adapted."""
    if name in ("lm_head", "embed_out", "embed_tokens", "wte"):
        return f"{name} lies outside of the decoder blocks, and the fused losses read it as it is, without an adapter"
    if any(leaf(fused) == leaf(name) for fused in layers.fused):
        return f"{name} holds {_FUSED}, whose adapters neither merging nor vLLM carries"
    return f"the model has no {name!r} ({nearest(name, layers.leaves)})"


def _linear(module: nn.Module) -> bool:
    """Whether a module computes a product with a matrix and no more; some routers subclass Linear and do more."""
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return isinstance(module, nn.Linear | Conv1D)
    if not module.weight.is_floating_point():  # quantised
        return True
    with torch.no_grad():
        out = module(torch.zeros(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device))
    return isinstance(out, Tensor) and out.shape == (1, module.out_features)


def _named(module: str, names: Iterable[str]) -> bool:
    """Whether PEFT would take the module to be one of the names."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _short(causal: PreTrainedModel, modules: tuple[str, ...]) -> tuple[str, ...]:
    """The modules' short names where no other module of the model has them, else the full names."""
    chosen, short = set(modules), tuple(dict.fromkeys(map(leaf, modules)))
    matched = {name for name, _ in causal.named_modules() if leaf(name) in short}
    return short if matched == chosen else modules


def _left_out(layers: LinearLayers) -> tuple[str, ...]:
    fused = [f"{name}: {_FUSED}, whose adapters neither merging nor vLLM carries" for name in layers.fused]
    return (*fused, *(f"{name}: {reason}" for name, reason in layers.refused.items()))


@dataclass(frozen=True)
class AdapterSummary:
    """How much of a model an adapter trains.

    Attributes:
        modules: how many adapted modules have each name.
        count: the number of adapted modules.
        parameters: the number of the adapter's parameters.
        share: the adapter's parameters over the base model's.
        covered: the share of the decoder blocks' parameters that lies in adapted modules.
        left_out: a line for each matrix that is not adapted, with the reason.
    """

    modules: dict[str, int]
    count: int
    parameters: int
    share: float
    covered: float
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The lines that a run prints at its start."""
        names = ", ".join(f"{count} x {name}" for name, count in self.modules.items())
        return [
            f"adapter on {self.count} modules: {names}",
            f"it has {self.parameters:,} parameters, {100 * self.share:.2f}% of the model's; the modules hold "
            f"{100 * self.covered:.1f}% of its decoder blocks",
            *(f"not adapted: {sentence}" for sentence in self.left_out),
        ]


def summarise_adapter(network: nn.Module, causal: nn.Module, blocks: nn.Module, targets: Targets) -> AdapterSummary:
    """The summary of an adapter that is the network's only trainable part."""
    adapter = {id(p): p.numel() for p in network.parameters() if p.requires_grad}
    base = sum(p.numel() for p in causal.parameters() if id(p) not in adapter)
    within = sum(p.numel() for p in blocks.parameters() if id(p) not in adapter)
    modules = [causal.get_submodule(name) for name in targets.modules]
    covered = sum(p.numel() for module in modules for p in module.parameters() if id(p) not in adapter)
    parameters = sum(adapter.values())
    return AdapterSummary(
        dict(counts(targets.modules)),
        len(targets.modules),
        parameters,
        parameters / max(base, 1),
        covered / max(within, 1),
        targets.left_out,
    )


_FILE_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": 1, ".lora_B.weight": 0}  # the dimension of [out, in] that each shares
_WITHIN = ".base_layer"  # PEFT nests adapters of fused experts, and names the inner one so


def check_adapter(adapter: Path, description: ModelDescription) -> None:
    """Checks a LoRA adapter's files against a model.

    Raises:
        UserError: for an adapter of another model, for numbers that are not finite, and for files that cannot be what
            was trained.
    """
    path, model = adapter / "adapter_model.safetensors", skeleton(description.config)
    ranks = _check_settings(adapter)
    for name, shape in _shapes(path).items():
        side = next((side for side in _SIDES if name.endswith(side)), None)
        if side is None:
            continue
        layer = name.removeprefix(_FILE_PREFIX).removesuffix(side)
        expected = _layer_shape(model, layer.removesuffix(_WITHIN))
        if len(shape) < 2:
            raise UserError(f"{path}: {name} is no matrix, and {len(shape)} of 2 dimensions are there")
        if expected is None or (expected and shape[_SIDES[side]] != expected[_SIDES[side]]):
            reason = f"there it is {' x '.join(map(str, expected))}" if expected else "which has no such layer"
            raise UserError(
                f"{adapter}: does not fit {description.name}: {layer} is adapted with "
                f"{' x '.join(map(str, shape))}, "
                f"{reason}; name the right model in base"
            )
        if expected and (rank := shape[1 - _SIDES[side]]) not in ranks:
            known = " or ".join(map(str, sorted(ranks)))
            raise UserError(f"{path}: {name} is of rank {rank}, and adapter_config.json beside it says {known}")
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} holds {kind}, which no adapter is trained in; the file is damaged")
        largest = tensor.detach().abs().max().item() if tensor.numel() else 0.0
        if _LARGEST < largest < math.inf:
            raise UserError(f"{path}: {name} holds {largest:.3g}, which no training leads to; the file is damaged")
    check_finite(str(path), tensors.items())


_LARGEST = 1e6  # of an adapter's numbers; beyond it products overflow, and every model draws noise


def _check_settings(adapter: Path) -> set[int]:
    """The ranks of an adapter's settings. Raises UserError where under them its weights do nothing, or miss a part."""
    path = adapter / "adapter_config.json"
    settings = read_form(path, AdapterForm)
    alphas = {"lora_alpha": settings.get("lora_alpha", 8), **(settings.get("alpha_pattern") or {})}
    for name, alpha in alphas.items():
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _LARGEST:
            raise UserError(f"{path}: {name} is {alpha!r:.40}, and a number is wanted; the file is damaged")
        if alpha == 0:
            raise UserError(f"{path}: {name} is 0, so its weights have no effect; the file is damaged")
    bias = settings.get("bias", "none")
    if bias != "none" and not any(name.endswith(".bias") for name in _shapes(adapter / "adapter_model.safetensors")):
        raise UserError(f"{path}: bias is {bias!r}, but the adapter's weights hold no bias; its files do not match")
    return {settings["r"], *(settings.get("rank_pattern") or {}).values()}


def _layer_shape(model: PreTrainedModel, name: str) -> tuple[int, ...] | None:
    """A layer's [out, in]; () where it holds several matrices, which are not compared; None without such a layer."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    weight = getattr(module, "weight", None)
    if weight is None:
        return () if any(p.dim() == 3 for p in module.parameters(recurse=False)) else None
    return tuple(reversed(weight.shape)) if isinstance(module, Conv1D) else tuple(weight.shape)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with open_tensors(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
