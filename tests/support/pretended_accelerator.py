"""An accelerator that is not there: its tensors carry CPU values and another device's label.

Every operation runs on the CPU, so its results are a CPU's to the bit. As on a GPU an operation that mixes tensors of
both devices is refused, and so are `.numpy()` of its tensors and a generator of another device. What makes the host
wait for the device is counted in `WAITS`, operations in `CALLS`, bytes alive and their peak in `MEMORY`.

It makes no casts of autocast's. It rests on an experimental function of torch 2.13. A process that has registered the
device keeps it: `auto` is then this accelerator, so what runs on it has processes of its own.
"""

import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sim"
WAITS: Counter[str] = Counter()  # what made the host wait, with the line of phfcli that did
CALLS: Counter[str] = Counter()  # operations; a kernel launch or several each
_CARD = 80 * 2**30  # bytes that it says it has
_COPYING = ("aten::_to_copy", "aten::copy_")
_INDEXING = ("aten::index.Tensor", "aten::index_put_", "aten::index_put")  # a GPU takes indices of a CPU as well
# the result's size, or its value, is needed by the host
_WAITING = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::equal",
    "aten::masked_select",
    "aten::repeat_interleave.Tensor",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::_linalg_eigh",
)


@dataclass
class Memory:
    """Bytes of the device's tensors."""

    held: int = 0
    peak: int = 0

    def add(self, storage: torch.UntypedStorage) -> None:
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, storage.nbytes(), storage._cdata)

    def _free(self, size: int, key: int) -> None:
        self.held -= size
        _known_storages.discard(key)


MEMORY = Memory()
_known_storages: set[int] = set()


class _Module:
    """What torch expects of a device's module, `torch.sim`."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: object) -> None:
        pass

    def get_device_name(self, device: object = None) -> str:
        return "a pretended accelerator"

    def is_bf16_supported(self) -> bool:
        return True

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: object = None) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass  # its random numbers are the CPU's

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


class _Event:
    """A moment of the device's clock, which is the host's."""

    def __init__(self, device: object = None, *, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: object = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass  # it was reached before the numbers of a step came home

    def elapsed_time(self, end: "_Event") -> float:
        return 1000 * (end.at - self.at)


class Pretended(Tensor):
    """A CPU tensor under the device's label."""

    values_on_cpu: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "Pretended":
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=torch.device(f"{NAME}:0"),
        )
        return made

    def __init__(self, values: Tensor) -> None:
        self.values_on_cpu = values
        storage = values.untyped_storage()
        if storage._cdata not in _known_storages:
            _known_storages.add(storage._cdata)
            MEMORY.add(storage)

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(function, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.values_on_cpu = other.values_on_cpu  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = Pretended(self.values_on_cpu.detach().clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = nn.Parameter(copy, self.requires_grad) if isinstance(self, nn.Parameter) else copy
        made: Tensor = memo[id(self)]
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.values_on_cpu.untyped_storage()

    def data_ptr(self) -> int:
        return self.values_on_cpu.data_ptr()

    def tolist(self) -> Any:
        _count_wait("tolist")
        return self.values_on_cpu.detach().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert a tensor of {NAME}:0 to numpy; use Tensor.cpu() first")

    __array__ = numpy


def values(x: Any) -> Any:
    """The CPU tensor of a tensor of the device; anything else as it is."""
    return x.values_on_cpu if isinstance(x, Pretended) else x


def _count_wait(what: str) -> None:
    ours = [frame for frame in traceback.extract_stack() if "/phfcli/" in frame.filename]
    where = f"{ours[-1].filename.rpartition('/phfcli/')[2]}:{ours[-1].lineno}" if ours else "elsewhere"
    WAITS[f"{what} {where}"] += 1


def _is_device(device: object) -> bool:
    return device is not None and torch.device(device).type == NAME  # type: ignore[call-overload]


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that takes tensors of the device or makes some."""
    leaves = tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    own = [x for x in tensors if isinstance(x, Pretended)]
    others = [x for x in tensors if not isinstance(x, Pretended)]
    name = function.name()
    CALLS[name] += 1
    if own and name not in (*_COPYING, *_INDEXING) and any(x.dim() for x in others):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {NAME}:0 and cpu")
    target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else NAME if own else "cpu"
    if any(isinstance(x, torch.Generator) and x.device.type != target for x in leaves):
        raise RuntimeError(f"{name}: expected a {target!r} device type for generator")
    _look_for_waits(name, args, kwargs, own, target)
    plain_args, plain_kwargs = tree_map(values, (args, dict(kwargs)))
    if plain_kwargs.get("device") is not None:
        plain_kwargs["device"] = torch.device("cpu")
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    out = function(*plain_args, **plain_kwargs)
    if name == "aten::copy_":
        return args[0]
    if target == "cpu":
        return out
    known = {id(values(x)): x for x in own}  # an operation in place gives its argument back

    def labelled(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in known:
            return Pretended(x)
        assert known[id(x)].shape == x.shape, f"{name} changed a shape in place, which this device cannot follow"
        return known[id(x)]

    return tree_map(labelled, out)


def _look_for_waits(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], own: list[Pretended], target: str
) -> None:
    blocking = not kwargs.get("non_blocking")
    if name in _WAITING:
        _count_wait(name)
    elif name == "aten::_to_copy" and own and target == "cpu":
        _count_wait("to the CPU")
    elif name == "aten::_to_copy" and not own and target == NAME and blocking:
        _count_wait("from the CPU")
    elif name == "aten::copy_" and isinstance(args[0], Pretended) != isinstance(args[1], Pretended) and blocking:
        _count_wait("from the CPU" if isinstance(args[0], Pretended) else "to the CPU")
    elif name in _INDEXING and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1]):
        filled = name != "aten::index.Tensor" and args[2].dim() == 0  # which is a masked_fill
        if not filled:
            _count_wait("a mask as index")


class Device(TorchDispatchMode):
    """Within it tensors can be made on the device, and what is made with a generator of another one is refused."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_device(kwargs.get("device")) or any(isinstance(x, Pretended) for x in tree_leaves((args, kwargs))):
            return _run(function, args, kwargs)
        return function(*args, **kwargs)


_kept: list[torch.library.Library] = []


def install() -> None:
    """Registers the device in this process, in all threads that start from now on; this one enters `Device` itself."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())  # type: ignore[no-untyped-call]
    anywhere, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _kept.extend((anywhere, aten))
    anywhere.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

    def empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
        return Pretended(torch.empty_strided(size, stride, dtype=dtype))

    def empty(size: Any, dtype: Any = None, **_: Any) -> Tensor:
        return Pretended(torch.empty(size, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        if isinstance(source, Pretended) != isinstance(target, Pretended) and not non_blocking:
            _count_wait("from the CPU" if isinstance(target, Pretended) else "to the CPU")
        values(target).copy_(values(source))
        return target

    aten.impl("empty_strided", empty_strided, "PrivateUse1")  # `torch.tensor(..., device=)` passes no mode
    aten.impl("empty.memory_format", empty, "PrivateUse1")
    aten.impl("_copy_from", copy_from, "PrivateUse1")
    torch.distributed.Backend.default_device_backend_map[NAME] = "gloo"  # which carries its tensors too
    memory: Any = torch.accelerator  # whose functions ask for an allocator in C++
    memory.memory_allocated = memory.memory_reserved = lambda *_: MEMORY.held
    memory.max_memory_allocated = lambda *_: MEMORY.peak
    memory.synchronize = lambda *_: _count_wait("synchronize")
    memory.get_memory_info = lambda *_: (_CARD - MEMORY.held, _CARD)
    # a weight that moves stays the same object, as one that moves to a GPU does: tied weights stay tied
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.Event = _Event  # type: ignore[misc, assignment]
    Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign, assignment]
    _everywhere(F.scaled_dot_product_attention, _attention_of_cpu(F.scaled_dot_product_attention))
    _in_threads()


def _attention_of_cpu(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch takes the fused kernel by the kind of device, and would compute this device's attention in parts."""

    def attend_as_cpu(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        plain = map(values, (query, key, value, attn_mask))
        fused = isinstance(query, Pretended) and torch._fused_sdp_choice(*plain, dropout_p, is_causal, **options) == 1
        if not fused:
            return attend(query, key, value, attn_mask, dropout_p, is_causal, **options)
        options.pop("enable_gqa", None)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, **options)[0]
        return out

    return attend_as_cpu


def _everywhere(function: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Puts another function in the place of one, in every loaded module that has it."""
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is function:
                setattr(module, name, other)


def _in_threads() -> None:
    """Threads of Python begin without a mode: each enters one."""
    run: Callable[[threading.Thread], None] = threading.Thread.run

    def run_on_device(thread: threading.Thread) -> None:
        with Device():
            run(thread)

    threading.Thread.run = run_on_device  # type: ignore[method-assign]
