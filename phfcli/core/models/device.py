"""The device that a model is on: the allocator's settings, and activations that wait in the machine's memory."""

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGE = 32 * 2**20  # the most that glibc takes
_SPARE = 2**31 - 1
_SMALL = 128 * 2**10  # glibc's own at the start, which then rises with each larger block that is freed


def give_back_free_blocks() -> None:
    """Gives the system what loading has left free: copies of weights that were put together, or converted."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_large_blocks() -> None:
    """From now on the memory of a freed tensor of up to 32 MB stays with the process, for the next one.

    By default glibc asks the system for each large block and gives it back when it is freed: every page of every tensor
    of a step is then fetched, and zeroed by the system, anew. Nothing is done where the C library is another.
    """
    _keep(_LARGE, _SPARE)


def return_large_blocks() -> None:
    """From now on the memory of a freed tensor goes back to the system: the next one may be of any size.

    For passes that compute activations again, and ask for tensors of many sizes between those that stay: glibc by
    itself keeps what is freed, finds no room in it for others, and grows to several times what is in use.
    """
    _keep(_SMALL, _SMALL)


def _keep(block: int, spare: int) -> None:
    """Has glibc keep freed blocks of up to so many bytes, and so many bytes at the end of the heap."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, block)
        library.mallopt(_M_TRIM_THRESHOLD, spare)


def in_machine_memory(tensor: Tensor) -> Tensor:
    """A copy of a GPU's tensor in memory that it reads and writes directly (pinned); a CPU's tensor as it is."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


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
