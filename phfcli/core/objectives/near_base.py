"""An objective that also holds the policy near its base."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.losses.divergence.fused import fused_divergence
from phfcli.core.models.passes import Batch, Pass, common_heads
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Term


@dataclass(frozen=True)
class NearBase:
    """The objective plus `weight` times KL(student || base), over the whole vocabulary, mean over all tokens.

    It is the term that GRPO has with the weight beta (Shao et al. 2024, arXiv 2402.03300, eq. 3), which estimates it
    from the token that was drawn; here it is computed.
    """

    objective: Objective
    weight: float
    temperature: float

    @property
    def needs(self) -> Needs:
        return replace(self.objective.needs, base=True)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert batch.base is not None
        total = base_divergence(student, batch.base, self.temperature)
        count = total.new_tensor(len(student.hidden))
        own = LossTerms({"base_kl": Term(total, "tokens", self.weight)}, {"base_kl": (total.detach(), count)})
        return self.objective.loss(student, teacher, batch) + own


def base_divergence(student: Pass, base: Pass, temperature: float) -> Tensor:
    """KL(student || base), summed over all tokens."""
    head, base_head = common_heads(student, base)
    return fused_divergence(
        student.hidden,
        base.hidden,
        head,
        student.hidden.new_ones(len(student.hidden), dtype=torch.float32),
        teacher_head=base_head,
        kind="reverse_kl",
        temperature=temperature,
    )
