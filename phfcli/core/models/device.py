"""Memory around the device: how glibc keeps freed blocks on a CPU, and the offload of a GPU's activations."""

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGE = 32 * 2**20  # bytes: the largest threshold that glibc accepts
_SPARE = 2**31 - 1  # bytes at the end of the heap that are kept
_SMALL = 128 * 2**10  # bytes: glibc's first threshold, which otherwise rises with each larger block that is freed


def give_back_free_blocks() -> None:
    """Returns to the system the memory that loading has freed: copies of weights that were joined or converted."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_large_blocks() -> None:
    """From now on the process keeps the memory of a freed tensor of up to 32 MB for the next tensor.

    By default glibc takes each large block from the system and returns it when it is freed: the system then zeroes
    every page of every tensor of every step. With another C library than glibc this does nothing.
    """
    _keep(_LARGE, _SPARE)


def return_large_blocks() -> None:
    """From now on the memory of a freed tensor goes back to the system.

    For gradient checkpointing, whose passes make tensors of many sizes between those that stay: a heap that keeps
    freed blocks cannot reuse them for other sizes, and grows to several times what is in use.
    """
    _keep(_SMALL, _SMALL)


def _keep(block: int, spare: int) -> None:
    """Lets glibc keep freed blocks of up to `block` bytes, and `spare` free bytes at the end of the heap."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, block)
        library.mallopt(_M_TRIM_THRESHOLD, spare)


def in_cpu_memory(tensor: Tensor) -> Tensor:
    """A copy of a GPU's tensor in pinned CPU memory; a CPU's tensor itself."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


_SMALLEST = 1 << 20  # bytes: to copy a smaller tensor costs more time than its memory is worth


def offload_activations(wanted: bool) -> AbstractContextManager[Any]:
    """Within it the activations that autograd keeps are offloaded to CPU memory; on a CPU this does nothing."""
    return saved_tensors_hooks(_pack, _unpack) if wanted else nullcontext()


def is_offloaded(saved: Tensor) -> bool:
    """Whether a tensor that autograd keeps is an activation worth offloading: large, dense, and no weight."""
    weight = isinstance(saved if saved._base is None else saved._base, nn.Parameter)
    return saved.device.type != "cpu" and saved.nbytes >= _SMALLEST and _dense(saved) and not weight


def _dense(tensor: Tensor) -> bool:
    """Whether the numbers lie side by side in some order of the dimensions, so that a copy has the same strides."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _pack(saved: Tensor) -> tuple[torch.device, Tensor]:
    return saved.device, in_cpu_memory(saved.detach()) if is_offloaded(saved) else saved


def _unpack(kept: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device, non_blocking=True)
