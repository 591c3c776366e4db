"""The metrics of a step: means over its micro-batches and ranks, of tokens, of completions, and of the engine."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.losses.divergence import logits_entropy
from phfcli.core.losses.positions import (
    ENTROPY_EDGES,
    FORK_ENTROPY,
    POSITION_PARTS,
    entropy_part,
    position_part,
    sums_by_part,
    working,
)
from phfcli.core.models.device import is_accelerator, moment, peak_of_tensors, seconds_between, to_device
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import TokenReadings
from phfcli.core.rollouts.transformers import drawn_logprobs
from phfcli.core.step_metrics import PHASES
from phfcli.core.training.ranks import Ranks
from phfcli.core.types import Sampling

Metrics = dict[str, Any]

_STATUS = Path("/proc/self/status")


class Phases:
    """What the phases of a step take, each from the end of the one before: seconds add up over its micro-batches."""

    def __init__(self) -> None:
        self.start(torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """Begins a step on a device."""
        self._device, self._moments = device, [("", moment(device))]

    def done(self, phase: str) -> None:
        """A phase, or its part of a micro-batch, is over."""
        self._moments.append((phase, moment(self._device)))

    def metrics(self) -> Metrics:
        """Seconds of each phase, and of the step."""
        seconds = dict.fromkeys(PHASES, 0.0)
        for (_, before), (phase, after) in pairwise(self._moments):
            seconds[phase] += seconds_between(before, after)
        return {f"{phase}_seconds": own for phase, own in seconds.items()} | {"seconds": sum(seconds.values())}


@dataclass
class MetricSums:
    """Sums and counts of metrics over the micro-batches of a step that are this rank's."""

    totals: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)

    def add(self, metrics: dict[str, tuple[Tensor, Tensor]]) -> None:
        for name, (value, count) in metrics.items():
            before = self.totals.get(name)
            self.totals[name] = (value, count) if before is None else (before[0] + value, before[1] + count)

    def add_largest(self, name: str, value: Tensor) -> None:
        self.largest[name] = torch.maximum(self.largest.get(name, value), value)

    def means(self, ranks: Ranks) -> Metrics:
        """Of each metric the mean over all ranks, or the largest value; none of what nothing was counted for."""
        sums = _on_cpu([tensor for pair in self.totals.values() for tensor in pair])
        ranks.sum_(sums)
        pairs = zip(sums[::2], sums[1::2], strict=True)
        means = {
            name: (total / count.clamp_min(1e-30)).tolist()
            for name, (total, count) in zip(self.totals, pairs, strict=True)
            if count.any()
        }
        own_largest = (value.item() for value in _on_cpu(list(self.largest.values())))
        largest = ranks.gather([dict(zip(self.largest, own_largest, strict=True))])
        names = {name: None for own in largest for name in own}
        return means | {name: max(own[name] for own in largest if name in own) for name in names}


def _on_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in float64 on the CPU, brought there in one piece for each dtype: the host waits for each piece."""
    home: dict[int, Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        own = [index for index, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = torch.cat([tensors[index].detach().reshape(-1) for index in own]).cpu().double()
        home |= dict(zip(own, flat.split([tensors[index].numel() for index in own]), strict=True))
    return [home[index].view(tensor.shape) for index, tensor in enumerate(tensors)]


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has held so far, in bytes: on a CPU of everything, else of tensors."""
    if is_accelerator(device):
        return peak_of_tensors(device)
    if _STATUS.is_file():  # not getrusage, whose peak is at least that of the process which started this one
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB elsewhere


_GRAM = 8  # tokens


def repetition(ids: Sequence[int]) -> float:
    """The share of a completion's runs of eight tokens that it has written before; 0 for a shorter one."""
    runs = [tuple(ids[start : start + _GRAM]) for start in range(len(ids) - _GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_answers(answers: Sequence[str | None], group: int) -> float:
    """How many different answers a problem's completions have, mean over problems; `group` completions are one's."""
    groups = [set(answers[start : start + group]) - {None} for start in range(0, len(answers), group)]
    return sum(map(len, groups)) / len(groups)


Sums = dict[str, tuple[Tensor, Tensor]]  # of each metric a sum, and the count that divides it


def policy_metrics(
    sums: MetricSums,
    readings: TokenReadings | None,
    student: Pass,
    batch: Batch,
    sampling: Sampling | None,
    temperature: float,
) -> None:
    """Adds what a micro-batch says of the policy: its entropy, and how far the rollouts' engine is from it.

    Args:
        readings: what the objective's pass over the vocabulary has told; without them a few tokens are read.
        sampling: that the completions were drawn with; None where none were drawn.
        temperature: of the entropy, where there are no readings.
    """
    if sampling is not None:
        gap, largest = engine_gap(student, batch, sampling)
        sums.add(gap)
        if largest is not None:
            sums.add_largest("engine_gap_largest", largest)
    if readings is None:
        sums.add(entropy_metrics(sparse_entropy(student, temperature)))
    else:
        sums.add(token_metrics(readings, batch))


@torch.no_grad()
def token_metrics(readings: TokenReadings, batch: Batch) -> Sums:
    """Entropy and forks, and the divergence by position and by entropy where there is one."""
    entropy, divergence = readings.entropy, readings.divergence
    sums = entropy_metrics(entropy)
    if divergence is None:
        return sums
    rows, offsets = batch.tokens
    if readings.gate is not None:
        rows, offsets, entropy, divergence = (each[readings.gate] for each in (rows, offsets, entropy, divergence))
    places, levels = position_part(offsets, batch.lengths[rows]), entropy_part(entropy)
    by_level = sums_by_part(divergence, levels, len(ENTROPY_EDGES) + 1)
    sums["divergence_by_position"] = sums_by_part(divergence, places, POSITION_PARTS)
    sums["divergence_by_entropy"] = by_level
    sums["tokens_by_entropy"] = (by_level[1], entropy.new_full((), len(entropy)))
    return sums


def entropy_metrics(entropy: Tensor) -> Sums:
    """The mean entropy [N], and the share of tokens above a fork's."""
    count = entropy.new_full((), len(entropy))
    return {"entropy": (entropy.sum(), count), "fork_share": ((entropy > FORK_ENTROPY).sum(), count)}


_TOKENS = 64  # of a micro-batch
_LARGEST = 20.0  # nats, whose exponential is still a number


@torch.no_grad()
def engine_gap(student: Pass, batch: Batch, sampling: Sampling) -> tuple[Sums, Tensor | None]:
    """The mean gap in nats, KL(engine || trainer), which is never negative here, and the largest gap.

    Tokens that no engine has drawn, those of references, are left out. Where there are no others the counts are 0, and
    nothing is largest.
    """
    values, device = batch.drawn_values, batch.lengths.device
    drawn = values.isfinite().nonzero()[:, 0]
    drawn = drawn[_spread(len(drawn), drawn.device)]
    chosen, engine = to_device(drawn, device), to_device(values[drawn], device)
    logits = working(student.head.logits(student.hidden[chosen].detach()))
    gap = drawn_logprobs(logits, batch.token_ids[chosen], sampling) - engine.to(logits.dtype)
    count = gap.new_full((), len(chosen))
    kl = gap.clamp(max=_LARGEST).exp() - 1 - gap
    sums = {"engine_gap": (gap.abs().sum(), count), "engine_kl": (kl.sum(), count)}
    return sums, gap.abs().max() if len(gap) else None


@torch.no_grad()
def sparse_entropy(student: Pass, temperature: float) -> Tensor:
    """The policy's entropy on these tokens [n], for objectives that do not read the vocabulary."""
    logits = student.head.logits(student.hidden[_spread(len(student.hidden), student.hidden.device)].detach())
    return logits_entropy(logits, temperature)


def _spread(tokens: int, device: torch.device) -> Tensor:
    """At most so many of the tokens, the first and the last among them."""
    return torch.linspace(0, tokens - 1, min(tokens, _TOKENS), device=device, dtype=torch.float64).round().long()
