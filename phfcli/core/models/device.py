"""The one place that knows what kind of device there is; also memory around it: glibc's heap, offloaded activations.

All of it goes through `torch.accelerator`, so GPUs of NVIDIA, AMD and Intel and NPUs of Ascend take the same path.
What only CUDA has is asked for here by kind.
"""

import ctypes
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from phfcli.core.errors import UserError, first_line

# the environment variable that says which devices a process sees, by kind
_VISIBLE = {"xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGE = 32 * 2**20  # bytes: the largest threshold that glibc accepts
_SPARE = 2**31 - 1  # bytes at the end of the heap that are kept
_SMALL = 128 * 2**10  # bytes: glibc's first threshold, which otherwise rises with each larger block that is freed
_planned: ContextVar[bool] = ContextVar("planned", default=False)


def accelerator() -> torch.device | None:
    """The kind of accelerator that is here; None without one. A Mac's is not taken unasked: `device=mps` takes it."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None or found.type == "mps" else found


def device_count() -> int:
    """How many accelerators this process sees. It does not start CUDA: what the process sees can still be changed."""
    named = torch.accelerator.current_accelerator()
    return 0 if named is None or named.type == "mps" else torch.accelerator.device_count()


def visible_devices() -> list[str]:
    """The names of the accelerators that this process sees: its environment's, or else their numbers."""
    visible = os.environ.get(_visible())
    return visible.split(",") if visible else [str(number) for number in range(device_count())]


def seeing(names: Sequence[str]) -> dict[str, str]:
    """The environment of a process that sees these accelerators alone."""
    return {_visible(): ",".join(names)}


def _visible() -> str:
    named = torch.accelerator.current_accelerator()
    return _VISIBLE.get(named.type if named else "cuda", "CUDA_VISIBLE_DEVICES")


@contextmanager
def planned_for_gpu(wanted: bool) -> Iterator[None]:
    """Within it "auto" is a GPU even where none is: for the plan of a run that is meant for another machine."""
    before = _planned.set(wanted)
    try:
        yield
    finally:
        _planned.reset(before)


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the accelerator if there is one. Raises UserError where it is not there."""
    if name == "auto":
        return accelerator() or torch.device("cuda" if _planned.get() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name!r} cannot be used: {first_line(error)}") from None


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 on an accelerator that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def is_accelerator(device: torch.device) -> bool:
    """Whether the device computes beside the host, which then waits for it."""
    return device.type not in ("cpu", "meta")


def is_cuda(device: torch.device) -> bool:
    """Whether it is a GPU of NVIDIA or AMD: these have FlashAttention, vLLM without being asked for, and its sleep."""
    return device.type == "cuda"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; one that is only planned for does."""
    if not is_accelerator(device) or device.type == "mps":
        return False
    if accelerator() is None:
        return True
    module = torch.get_device_module(device)
    if is_cuda(device):
        return bool(module.is_bf16_supported(including_emulation=False))
    return bool(getattr(module, "is_bf16_supported", bool)())


def device_name(device: torch.device) -> str:
    """What the maker calls it; of a CPU its kind."""
    named = getattr(torch.get_device_module(device), "get_device_name", None) if is_accelerator(device) else None
    return str(device) if named is None else str(named(device))


def devices() -> list[tuple[str, int]]:
    """Name and bytes of each accelerator that this process sees."""
    module = torch.get_device_module()
    found = [module.get_device_properties(number) for number in range(device_count())]
    return [(one.name, one.total_memory) for one in found]


def cuda_versions() -> dict[str, str]:
    """The versions of CUDA and, where it is used, of NCCL; empty for a build of torch without CUDA."""
    if not torch.version.cuda:
        return {}
    versions = {"cuda": torch.version.cuda}
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        versions |= {"nccl": ".".join(map(str, torch.cuda.nccl.version()))}
    return versions


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU's tensor on the device; the host does not wait until it is there."""
    if not is_accelerator(device) or device.type == "mps":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def moment(device: torch.device) -> float | torch.Event:
    """Now, or on an accelerator the moment at which it has done all that it was asked for, without a wait for it."""
    if not is_accelerator(device):
        return time.perf_counter()
    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def seconds_between(first: float | torch.Event, second: float | torch.Event) -> float:
    """Between two moments of one device; waits until the second one has come."""
    if isinstance(first, torch.Event) and isinstance(second, torch.Event):
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000
    return float(second) - float(first)  # type: ignore[arg-type]


def peak_of_tensors(device: torch.device) -> int:
    """The most bytes that tensors have held on an accelerator so far."""
    return torch.accelerator.max_memory_allocated(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes of an accelerator that a new tensor can have, torch's own cache included; None where nobody knows."""
    if not is_accelerator(device) or accelerator() is None:
        return None
    unused = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    return torch.accelerator.get_memory_info(device)[0] + unused


def give_back_memory() -> None:
    """Gives memory that torch keeps for new tensors back to the accelerator, for another process to take."""
    if accelerator() is not None:
        torch.accelerator.empty_cache()


def same_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards torch's random state, that of the device included, is what it was before."""
    own = is_accelerator(device) and device.type != "mps" and torch.get_device_module(device).is_initialized()
    return torch.random.fork_rng([device.index or 0] if own else [], device_type=device.type if own else "cpu")


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
