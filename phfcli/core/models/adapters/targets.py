"""Which modules of a model an adapter sits on: by default every linear layer of its decoder blocks.

For Qwen3 these are the published ones: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.
"""

import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from phfcli.core.errors import UserError, nearest
from phfcli.core.models.architecture.blocks import find_blocks

ALL_LINEAR = "all-linear"
_FUSED = "several matrices in one tensor (fused experts)"


@dataclass(frozen=True)
class Targets:
    """The modules to adapt by their full names, the names for PEFT, and what is left out, in words."""

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
        """Their own names, each once."""
        return sorted({leaf(name) for names in self.by_block for name in names})

    @cached_property
    def refused(self) -> dict[str, str]:
        """Of these the ones that PEFT cannot adapt, each with the reason."""
        config = LoraConfig(target_modules=self.leaves)
        known = {name for name in self.leaves if self._past(config, name)}
        found = dict.fromkeys(
            sorted(known | self._read_past()), "the model's code reads its weight instead of calling it"
        )
        convert_peft_config_for_transformers(config, self._causal, None)
        kept: Any = config.target_modules
        others = set(self.leaves) - set(kept)
        return found | dict.fromkeys(sorted(others), "PEFT reads this name as the fused experts'")

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

    def _read_past(self) -> set[str]:
        """Names of layers whose weight is read by the code of the module around them, on some device at least."""
        found = set()
        for name in (name for names in self.by_block for name in names):
            around = self._causal.get_submodule(name.rpartition(".")[0])
            if re.search(
                rf"self\.{leaf(name)}\.weight\b(?!\.(dtype|device|shape))",
                _code(around.__class__.__module__, around.__class__.__qualname__),
            ):
                found.add(leaf(name))
        return found

    def _past(self, config: LoraConfig, name: str) -> bool:
        """Whether PEFT knows that the model's code goes past the module, so that an adapter would be without effect."""
        try:
            _check_lora_target_modules_mamba(config, self._causal, name)
        except ValueError:
            return True
        return False


def choose_targets(causal: PreTrainedModel, wanted: tuple[str, ...] | str) -> Targets:
    """The modules that the setting asks for.

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
            own = ", ".join(sorted(map(leaf, layers.by_block[number]))) or "no linear layer"
            raise UserError(
                f"lora.target_modules: {', '.join(asked) or ALL_LINEAR} is not in block {number + 1} "
                f"of {len(chosen)}, which has {own}; use {ALL_LINEAR}, or name some of these too"
            )
    modules = tuple(name for names in chosen for name in names)
    return Targets(modules, _short(causal, modules), _left_out(layers) if everything else ())


def leaf(name: str) -> str:
    """A module's own name, without those of the modules around it."""
    return name.rpartition(".")[2]


def adapted(network: nn.Module) -> dict[str, BaseTunerLayer]:
    """The modules of a network that carry an adapter, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)}


def counts(names: Iterable[str]) -> Mapping[str, int]:
    """How many modules have each name, the names in the order of a block."""
    return Counter(map(leaf, names))


@cache
def _code(module: str, name: str) -> str:
    """The source of a class, which takes a while to find; nothing where there is none."""
    try:
        return inspect.getsource(attrgetter(name)(sys.modules[module]))
    except (OSError, AttributeError):
        return ""


def _check_names(layers: LinearLayers, asked: list[str]) -> None:
    has = f"its decoder blocks have {', '.join(layers.leaves)}; use these or {ALL_LINEAR}"
    for name in asked:
        if leaf(name) in layers.refused:
            raise UserError(f"lora.target_modules: {name} cannot be adapted: {layers.refused[leaf(name)]}")
        if not any(_named(module, [name]) for names in layers.by_block for module in names):
            raise UserError(f"lora.target_modules: {_why_not(layers, name)}; {has}")


def _why_not(layers: LinearLayers, name: str) -> str:
    """Why a name is not one of a linear layer of the blocks."""
    if name in ("lm_head", "embed_out", "embed_tokens", "wte"):
        return f"{name} lies outside of the decoder blocks, and the fused losses read it as it is, without an adapter"
    if any(leaf(fused) == leaf(name) for fused in layers.fused):
        return f"{name} holds {_FUSED}, whose adapters neither merging nor vLLM carries"
    return f"the model has no {name!r} ({nearest(name, layers.leaves)})"


def _linear(module: nn.Module) -> bool:
    """Whether a module is a product with a matrix and no more; some routers are one in name alone."""
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
    """The modules' own names where they mean nothing else in the model, else the full ones."""
    chosen, short = set(modules), tuple(dict.fromkeys(map(leaf, modules)))
    meant = {name for name, _ in causal.named_modules() if leaf(name) in short}
    return short if meant == chosen else modules


def _left_out(layers: LinearLayers) -> tuple[str, ...]:
    fused = [f"{name}: {_FUSED}, whose adapters neither merging nor vLLM carries" for name in layers.fused]
    return (*fused, *(f"{name}: {reason}" for name, reason in layers.refused.items()))
