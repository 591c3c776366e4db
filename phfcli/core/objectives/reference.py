"""What draws the student to something fixed: the reference solutions (SFT), and the base model (`base_kl`)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.config import SftSettings, TrainConfig
from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.losses.policy_gradient import token_logprobs_and_entropy
from phfcli.core.models.passes import Batch, Pass, common_heads
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Term, TokenReadings, builds


@dataclass(frozen=True)
class ReferenceLikelihood:
    """Cross-entropy of the reference solution after the student's prompt; the prompt itself is no target."""

    settings: SftSettings

    @property
    def needs(self) -> Needs:
        return Needs(
            completions=0,
            own_completions=True,
            on_policy=True,  # no share of rollouts: every sample is a reference
            sections=("sft",),
            teacher=False,
            privileged=False,
            max_tokens=self.settings.max_tokens,
        )

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids)
        total = -logprobs.sum()
        count = total.new_full((), len(logprobs))
        return LossTerms({"nll": Term(total, per="tokens")}, {"nll": (total.detach(), count)}, TokenReadings(entropy))


@builds("sft")
def build_sft(config: TrainConfig) -> ReferenceLikelihood:
    return ReferenceLikelihood(config.sft)


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
        count = total.new_full((), len(student.hidden))
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
