"""OISD: the last block teaches an intermediate one, on the rollouts and with the advantages of GRPO."""

from dataclasses import dataclass

from torch import Tensor

from phfcli.core.config import GrpoSettings, OisdSettings
from phfcli.core.losses.divergence.fused import fused_divergence
from phfcli.core.losses.hidden_states.attention import attention_divergence
from phfcli.core.losses.shared import working
from phfcli.core.models.logit_lens import LogitLens
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Term
from phfcli.core.objectives.group_policy import sample_advantages
from phfcli.core.objectives.token_means import token_divisors


@dataclass(frozen=True)
class InternalAlignment:
    """What OISD adds to GRPO (eqs. 7, 10, 11): the shadow student's prediction and attention drawn to the last block's.

    Each is weighted by the sample's clipped advantage with its sign: completions worse than their group push the two
    apart. The last block is a constant here; the policy itself is left to GRPO's own term.
    """

    settings: OisdSettings
    grpo: GrpoSettings
    temperature: float

    @property
    def needs(self) -> Needs:
        return Needs(
            completions=self.grpo.group_size,
            teacher=False,
            privileged=False,
            reward=True,
            positions=self.settings.queries,
            lens=self.settings.layer or 0,
        )

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert student.lens is not None
        lens, bound = student.lens, self.settings.advantage_clip
        signed, _ = sample_advantages(batch, self.grpo.normalize, working(lens.hidden))
        advantages = signed.clamp(-bound, bound)
        return self._think(student, lens, batch, advantages) + self._attention(lens, batch, advantages)

    def _think(self, student: Pass, lens: LogitLens, batch: Batch, advantages: Tensor) -> LossTerms:
        """Logit alignment: how to think (eq. 7)."""
        rows, _ = batch.tokens
        divisors, per = token_divisors(batch, self.grpo.aggregate)
        total = fused_divergence(
            lens.hidden.to(student.hidden.dtype),
            student.hidden.detach(),
            student.head,
            advantages[rows] / divisors,
            temperature=self.temperature,
        )
        metrics = {"think": (total.detach(), total.new_tensor(batch.counts[per]))}
        return LossTerms({"think": Term(total, per, self.settings.think)}, metrics)

    def _attention(self, lens: LogitLens, batch: Batch, advantages: Tensor) -> LossTerms:
        """Attention alignment: where to look (eq. 10), a mean over each sample's queries and heads."""
        columns = (batch.student.prompt_lengths[:, None] + batch.positions - 1).clamp(min=0)
        apart = attention_divergence(
            lens.attention, lens.last, columns, self.settings.window, self.settings.strided
        ).masked_fill(~batch.valid, 0)  # [B, m]
        own = apart.sum(-1) / batch.valid.sum(-1).clamp(min=1)
        metrics = {"attention_gap": (own.detach().sum(), own.new_tensor(batch.counts["samples"]))}
        return LossTerms({"attention": Term((own * advantages).sum(), "samples", self.settings.attention)}, metrics)
