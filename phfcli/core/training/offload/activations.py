"""The activations of a student's pass wait in the machine's memory until the backward pass reads them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from phfcli.core.models.allocator import in_machine_memory

_SMALLEST = 1 << 20  # bytes: a copy of less takes longer than it is worth


def activations_away(wanted: bool) -> AbstractContextManager[Any]:
    """Within it what autograd keeps leaves the GPU; on a CPU nothing does."""
    return saved_tensors_hooks(_pack, _unpack) if wanted else nullcontext()


def goes_away(saved: Tensor) -> bool:
    """Whether a tensor that autograd keeps is an activation worth moving: large, dense, and no weight."""
    weight = isinstance(saved if saved._base is None else saved._base, nn.Parameter)
    return saved.device.type != "cpu" and saved.nbytes >= _SMALLEST and _dense(saved) and not weight


def _dense(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side in some order of its dimensions: a copy is then laid out alike."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _pack(saved: Tensor) -> tuple[torch.device, Tensor]:
    return saved.device, in_machine_memory(saved.detach()) if goes_away(saved) else saved


def _unpack(kept: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device, non_blocking=True)
