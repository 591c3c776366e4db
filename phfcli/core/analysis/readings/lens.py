"""Reads every block's state by the model's own final norm and head: the logit lens along depth.

Shapes: L blocks, n positions, d hidden size, V vocabulary.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from phfcli.core.analysis.readings.model_readings import LensReadings
from phfcli.core.losses.divergence.chunked import chunk_rows
from phfcli.core.losses.divergence.plain import divergence
from phfcli.core.losses.divergence.vocabulary_terms import logits_entropy
from phfcli.core.losses.head import Head
from phfcli.core.losses.shared import working
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass

_WORDS = 12  # of the first rollout


@dataclass
class LensSums:
    """Sums over the selected positions, in float64, and what is shown of the first rollout."""

    model: LanguageModel
    shadow: int
    temperature: float
    words: list[str] = field(default_factory=list)
    likeliest: list[list[str]] = field(default_factory=list)
    _sums: Tensor | None = None  # [3, L]
    _count: int = 0

    def add(self, student: Pass, batch: Batch) -> None:
        """student: of `predicting_pass`."""
        values, _ = lens_values(read_states(self.model, student, batch), student.head, self.temperature)
        total = values.sum(-1).cpu()
        self._sums = total if self._sums is None else self._sums + total
        self._count += values.shape[-1]
        if not self.words:
            self._show(batch.samples[0])

    def _show(self, sample: Sample) -> None:
        """Keeps the first tokens of a rollout, one behind the other, and what each block would have written there."""
        beginning = collate([sample], _WORDS, self.model.description.pad_id, self.model.device, "first")
        student = predicting_pass(self.model, beginning)
        _, likeliest = lens_values(read_states(self.model, student, beginning), student.head, self.temperature)
        text = self.model.description.text
        self.words = [text([token]) for token in sample.completion[:_WORDS]]
        self.likeliest = [[text([token]) for token in row] for row in likeliest.tolist()]

    def result(self) -> LensReadings:
        assert self._sums is not None
        entropy, agreement, apart = (self._sums / self._count).tolist()
        return LensReadings(self.shadow, entropy, agreement, apart, self.words, self.likeliest)


def predicting_pass(model: LanguageModel, batch: Batch) -> Pass:
    """The student's pass with every block's states in the columns that predict the selected tokens."""
    before = replace(batch, positions=batch.positions - 1)  # -1 is the last token of the prompt
    return run_pass(model, batch.student, before, range(1, len(model.blocks) + 1))


def read_states(model: LanguageModel, student: Pass, batch: Batch) -> Tensor:
    """[L, n, d]: those states at the valid positions, after the final norm, as the head reads the last block's."""
    states = student.states[:, batch.valid]
    with model.computing():
        normed: Tensor = model.final_norm(states)
    return normed.to(model.compute or states.dtype)


def lens_values(states: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor]:
    """What the head reads of states [L, n, d], the last block's being the model's own prediction.

    Returns:
        [3, L, n], float64: entropy, 1 where the likeliest word is the last block's, jsd(0.5) from its prediction.
        [L, n]: the likeliest word.
    """
    values, words = [], []
    chunk = chunk_rows(states[0], len(head), None)
    for start in range(0, states.shape[1], chunk):
        last = working(head.logits(states[-1, start : start + chunk]))
        by_layer, tops = [], []
        for state in states[:, start : start + chunk]:
            logits = working(head.logits(state))
            tops.append(logits.argmax(-1))
            apart = divergence(logits, last, kind="jsd", temperature=temperature)
            same = tops[-1] == last.argmax(-1)
            by_layer.append(torch.stack([logits_entropy(logits, temperature).double(), same.double(), apart.double()]))
        values.append(torch.stack(by_layer, dim=1))
        words.append(torch.stack(tops))
    return torch.cat(values, dim=-1), torch.cat(words, dim=-1)
