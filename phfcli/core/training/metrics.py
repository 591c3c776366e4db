"""The metrics of a step: means over its micro-batches and ranks, and its peak memory."""

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.training.distributed import Ranks

Metrics = dict[str, Any]

_STATUS = Path("/proc/self/status")

# metrics of the machine, which differ between two runs that are otherwise the same
MACHINE = ("tokens_per_s", "rollout_seconds", "seconds", "peak_memory_bytes")


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
