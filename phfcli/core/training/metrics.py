"""The metrics of a step: means over its micro-batches and ranks, and its peak memory."""

import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.names import PHASES
from phfcli.core.training.distributed import Ranks

Metrics = dict[str, Any]

_STATUS = Path("/proc/self/status")


class Phases:
    """What the phases of a step take, each from the end of the one before: seconds add up over its micro-batches."""

    def __init__(self) -> None:
        self.start(torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """Begins a step on a device."""
        self._device, self._seconds = device, dict.fromkeys(PHASES, 0.0)
        self._since = self._now()

    def done(self, phase: str) -> None:
        """A phase, or its part of a micro-batch, is over."""
        now = self._now()
        self._seconds[phase] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # kernels run after the call that asks for them
        return time.perf_counter()

    def metrics(self) -> Metrics:
        """Seconds of each phase, and of the step."""
        return {f"{phase}_seconds": own for phase, own in self._seconds.items()} | {"seconds": self.seconds}

    @property
    def seconds(self) -> float:
        return sum(self._seconds.values())


@dataclass
class MetricSums:
    """Sums and counts of metrics over the micro-batches of a step that are this rank's."""

    totals: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)

    def add(self, metrics: dict[str, tuple[Tensor, Tensor]]) -> None:
        for name, (total, count) in metrics.items():
            before = self.totals.get(name)
            self.totals[name] = (total, count) if before is None else (before[0] + total, before[1] + count)

    def add_largest(self, name: str, value: Tensor) -> None:
        self.largest[name] = torch.maximum(self.largest.get(name, value), value)

    def means(self, ranks: Ranks) -> Metrics:
        """Of each metric the mean over all ranks, or the largest value; none of what nothing was counted for."""
        sums = [tensor.to(torch.float64, copy=True) for pair in self.totals.values() for tensor in pair]
        ranks.sum_(sums)
        pairs = zip(sums[::2], sums[1::2], strict=True)
        means = {
            name: (total / count.clamp_min(1e-30)).tolist()
            for name, (total, count) in zip(self.totals, pairs, strict=True)
            if count.any()
        }
        largest = ranks.gather([{name: value.item() for name, value in self.largest.items()}])
        names = {name: None for own in largest for name in own}
        return means | {name: max(own[name] for own in largest if name in own) for name in names}


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has held so far, in bytes: of tensors on a GPU, of everything on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():  # not getrusage, whose peak is at least that of the process which started this one
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB elsewhere
