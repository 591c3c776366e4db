"""Compares the output distributions of both readers: their likeliest words, and how open each is.

Shapes: N tokens, n tokens of a chunk, V vocabulary.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from phfcli.core.analysis.readings.model_readings import OutputReadings
from phfcli.core.losses.divergence.chunked import chunk_rows
from phfcli.core.losses.divergence.vocabulary_terms import logits_entropy
from phfcli.core.losses.shared import working
from phfcli.core.losses.token_parts import POSITION_PARTS, position_part, sums_by_part
from phfcli.core.models.passes import Batch, Pass

TOP = 16  # words, as OPRD has it


def top_overlap(student: Tensor, teacher: Tensor, top: int = TOP) -> Tensor:
    """The share of each reader's `top` likeliest words that the other one has too: logits [n, V] twice -> [n]."""
    top = min(top, student.shape[-1])
    own, other = (logits.topk(top, dim=-1).indices for logits in (student, teacher))  # [n, top]
    common = (own[:, :, None] == other[:, None]).any(-1)
    return common.double().mean(-1)


@dataclass
class OutputSums:
    """Sums over tokens by sixteenth of the rollout, in float64."""

    temperature: float
    _sums: Tensor = field(default_factory=lambda: torch.zeros(3, POSITION_PARTS, dtype=torch.float64))
    _counts: Tensor = field(default_factory=lambda: torch.zeros(POSITION_PARTS, dtype=torch.float64))

    def add(self, student: Pass, teacher: Pass, batch: Batch) -> None:
        values = output_values(student, teacher, self.temperature).cpu()
        rows, offsets = batch.tokens
        part = position_part(offsets, batch.lengths[rows]).cpu()
        for place, own in enumerate(values):
            sums, counts = sums_by_part(own, part, POSITION_PARTS)
            self._sums[place] += sums
        self._counts += counts

    def result(self) -> OutputReadings:
        tokens = int(self._counts.sum())
        means = (self._sums.sum(1) / tokens).tolist()
        parts = zip(*self._sums.tolist(), self._counts.tolist(), strict=True)
        along = [[value / count if count else None for value in own] for *own, count in parts]
        return OutputReadings(tokens, TOP, *means, *map(list, zip(*along, strict=True)))


def output_values(student: Pass, teacher: Pass, temperature: float) -> Tensor:
    """[3, N], float64: the overlap of the likeliest words, the entropy of the student and of the teacher."""
    chunk = chunk_rows(student.hidden, len(student.head), None)
    parts = []
    for start in range(0, len(student.hidden), chunk):
        own, other = (
            working(reader.head.logits(reader.hidden[start : start + chunk])) for reader in (student, teacher)
        )
        entropies = (logits_entropy(logits, temperature).double() for logits in (own, other))
        parts.append(torch.stack([top_overlap(own, other), *entropies]))
    return torch.cat(parts, dim=1)
