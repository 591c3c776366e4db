"""Where the shadow block and the last block attend: how far apart they are, and maps of the first rollout.

Shapes: B rollouts, m queries of each, T columns of a rollout with its prompt, H query heads, G key heads, c head size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from phfcli.core.analysis.readings.model_readings import AttentionReadings, TokenAttention
from phfcli.core.config import OisdSettings
from phfcli.core.losses.hidden_states.attention import Attention, attention_divergence
from phfcli.core.losses.shared import working
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.logit_lens import LogitLens
from phfcli.core.models.passes import Batch, run_pass

PARTS = 32  # of a map's columns
_TOKENS = 16  # that are named
_LATE = 4  # the last quarter of the rollout asks for them


@dataclass
class AttentionSums:
    """The divergence, summed over rollouts, and what is shown of the first one."""

    model: LanguageModel
    shadow: int
    settings: OisdSettings
    _divergence: float = 0.0
    _rollouts: int = 0
    _first: tuple[Tensor, Tensor, list[int], list[TokenAttention]] | None = None

    def add(self, batch: Batch) -> None:
        """Rollouts with as many selected positions as OISD has queries."""
        lens = run_pass(self.model, batch.student, batch, (), self.shadow).lens
        assert lens is not None
        columns = (batch.student.prompt_lengths[:, None] + batch.positions - 1).clamp(min=0)  # that predict
        window, strided = self.settings.window, self.settings.strided
        apart = attention_divergence(lens.attention, lens.last, columns, window, strided)
        counts = batch.valid.sum(-1)
        self._divergence += float((apart.masked_fill(~batch.valid, 0).sum(-1) / counts.clamp(min=1)).sum())
        self._rollouts += int((counts > 0).sum())
        if self._first is None:
            self._first = self._show(lens, batch, columns[0, batch.valid[0]])

    def result(self) -> AttentionReadings:
        assert self._first is not None
        shadow, last, columns, tokens = self._first
        apart = self._divergence / self._rollouts
        return AttentionReadings(apart, 1 - apart / math.log(2), shadow.tolist(), last.tolist(), columns, tokens)

    def _show(
        self, lens: LogitLens, batch: Batch, columns: Tensor
    ) -> tuple[Tensor, Tensor, list[int], list[TokenAttention]]:
        """Of the first rollout of a batch, whose queries are at `columns` [m]."""
        length = int(columns[-1]) + 1
        maps = [head_mean(layer, columns, length).cpu() for layer in (lens.attention, lens.last)]  # [m, T]
        late = columns.cpu() >= length - max(1, len(batch.samples[0].completion) // _LATE)
        shadow, last = (whole[late].mean(0) for whole in maps)  # [T]
        chosen = torch.maximum(shadow, last).topk(min(_TOKENS, length)).indices.sort().values.tolist()
        ids, text = batch.student.input_ids[0].tolist(), self.model.description.text
        tokens = [TokenAttention(c, text([ids[c]]), shadow[c].item(), last[c].item()) for c in chosen]
        return part_sums(maps[0]), part_sums(maps[1]), columns.tolist(), tokens


def head_mean(layer: Attention, columns: Tensor, length: int) -> Tensor:
    """[m, T]: what the first row's queries at columns [m] attend to of its first `length` columns, mean over heads."""
    keys = working(layer.keys[0, :, :length])  # [G, T, c]
    seen = torch.arange(length, device=columns.device)
    rows = []
    for column in columns.tolist():
        queries = working(layer.queries[0, :, column]).unflatten(0, (len(keys), -1))  # [G, H / G, c]
        logits = (queries @ keys.mT * layer.scale).masked_fill(seen > column, -torch.inf)
        rows.append(logits.softmax(-1).mean((0, 1)))
    return torch.stack(rows)


def part_sums(attention: Tensor, parts: int = PARTS) -> Tensor:
    """[m, T] -> [m, P]: the attention that each part of the columns gets; P is T where that is less."""
    m, length = attention.shape
    parts = min(parts, length)
    part = torch.arange(length) * parts // length
    return attention.new_zeros(m, parts).index_add(1, part, attention)
