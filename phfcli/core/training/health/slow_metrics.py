"""Metrics that cost a pass or a look at every gradient: every `health.every` steps only."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, run_pass
from phfcli.core.models.sharding import total
from phfcli.core.objectives.near_base import base_divergence
from phfcli.core.objectives.teachers.contract import Teacher

_PARTS = 4  # of the depth
_BLOCK = re.compile(r"\.(\d+)\.")


def gradient_by_depth(parameters: Mapping[str, nn.Parameter], blocks: int) -> list[float]:
    """The norm of the gradient in each quarter of the decoder blocks, from the first to the last."""
    squares: list[list[Tensor]] = [[] for _ in range(_PARTS)]
    for name, p in parameters.items():
        found = _BLOCK.search(name)
        if found is not None and p.grad is not None:
            squares[min(int(found[1]) * _PARTS // blocks, _PARTS - 1)].append(p.grad.square().sum())
    return [math.sqrt(total(part)) for part in squares]


@torch.no_grad()
def base_distance(model: LanguageModel, base: Teacher, batch: Batch, temperature: float) -> float:
    """KL(policy || base) per token on a micro-batch's rollouts, the base being the model before any training."""
    own = run_pass(model, batch.student, batch, ())
    return base_divergence(own, base.run_pass(model, batch, ()), temperature).item() / len(own.hidden)
