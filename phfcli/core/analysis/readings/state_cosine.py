"""The cosine of both readers' states over the first and over the last k tokens of a rollout (OPRD, figure 8).

The paper shows the last layer; here it is every block, before the final norm. A flow holds selected positions, so the
mean is over those among the k tokens: all of them where a rollout has at most flow.positions tokens, else a sample. Of
each rollout the mean over its positions is taken first, then the mean over rollouts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_KS = 2 ** torch.arange(31)  # of the first and last k tokens


@dataclass(frozen=True)
class StateCosine:
    """By number of tokens and layer; with the last number, which is the longest rollout, both ends are the whole."""

    tokens: list[int]  # 1, 2, 4, ..., and the length of the longest rollout
    first: list[list[float | None]]  # [len(tokens)][L]; None where no rollout has a position there
    last: list[list[float | None]]

    def ends(self) -> Iterator[tuple[str, list[list[float | None]]]]:
        """Each end by its name."""
        yield "first", self.first
        yield "last", self.last

    def as_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, **dict(self.ends())}


@dataclass
class StateCosineSums:
    """Sums over rollouts, in float64."""

    depth: int
    longest: int = 0
    _sums: Tensor = field(init=False)  # [2, len(_KS), L], of the first and of the last tokens
    _rollouts: Tensor = field(init=False)  # [2, len(_KS), 1], that have a position there

    def __post_init__(self) -> None:
        self._sums = torch.zeros(2, len(_KS), self.depth, dtype=torch.float64)
        self._rollouts = torch.zeros(2, len(_KS), 1, dtype=torch.float64)

    def add(self, cosine: Tensor, positions: list[int], length: int) -> None:
        """cosine: [L, m], at these positions of a rollout of so many tokens."""
        at = torch.tensor(positions)
        within = torch.stack([at < _KS[:, None], at >= length - _KS[:, None]]).double()  # [2, len(_KS), m]
        counts = within.sum(-1, keepdim=True)
        self._sums += within @ cosine.double().T.cpu() / counts.clamp(min=1)
        self._rollouts += counts > 0
        self.longest = max(self.longest, length)

    def result(self) -> StateCosine:
        shorter = int((self.longest > _KS).sum())  # ks that do not yet reach over the longest rollout
        means = (self._sums / self._rollouts)[:, : shorter + 1].tolist()
        first, last = ([[None if math.isnan(value) else value for value in row] for row in end] for end in means)
        return StateCosine([*_KS[:shorter].tolist(), self.longest], first, last)
