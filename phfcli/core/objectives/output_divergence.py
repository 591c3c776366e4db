"""OPSD: the divergence of the teacher's and the student's next-token distributions."""

from dataclasses import dataclass

from phfcli.core.config import DivergenceSettings
from phfcli.core.losses.divergence.fused import fused_divergence_stats
from phfcli.core.models.passes import Batch, Pass, common_heads
from phfcli.core.objectives.contract import LossTerms, Needs, Term, TokenReadings
from phfcli.core.objectives.token_means import token_divisors


@dataclass(frozen=True)
class OutputDivergence:
    """OPSD (eq. 3): the divergence of the two next-token distributions on the student's own tokens.

    Eq. 3 is of one rollout; over a batch it is a mean over all tokens, or over each rollout's own first.
    """

    settings: DivergenceSettings
    temperature: float
    needs: Needs = Needs()

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        divisors, per = token_divisors(batch, self.settings.aggregate)
        weights = (1.0 if batch.weights is None else batch.weights) / divisors.float()
        head, teacher_head = common_heads(student, teacher)
        total, clip = fused_divergence_stats(
            student.hidden,
            teacher.hidden,
            head,
            weights,
            teacher_head=teacher_head,
            temperature=self.temperature,
            **self.settings.of_each_token(),
        )
        tokens = weights.new_tensor(len(weights))
        metrics = {
            "divergence": (total.detach(), weights.new_tensor(batch.counts[per])),
            "clip_share": (clip.raw - clip.clipped, clip.raw),  # of the divergence, that the clip takes
            "clipped_entries": (clip.entries_clipped, clip.entries),
            "clipped_tokens": (clip.tokens_clipped, tokens),
            "turned_tokens": (clip.tokens_turned, tokens),  # the clip drives these away from where they would go
        }
        readings = TokenReadings(clip.entropy, clip.divergence)
        return LossTerms({"divergence": Term(total, per)}, metrics, readings)
