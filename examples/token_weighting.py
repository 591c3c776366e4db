"""A token weighting of one's own: OPSD in which a token counts as much as the teacher is unsure of it."""

from dataclasses import dataclass

import torch

import phfcli as phf
from phfcli.core.config import TrainConfig
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Term
from phfcli.losses import fused_divergence


@dataclass(frozen=True)
class UnsureTokens:
    """The divergence of both next-token distributions, weighted by the teacher's entropy."""

    temperature: float
    needs: Needs = Needs()  # one rollout, and the teacher's pass on the prompt with the reference

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        logits = teacher.head.logits(teacher.hidden).float() / self.temperature  # all at once: for a small vocabulary
        weights = torch.distributions.Categorical(logits=logits).entropy().detach()
        total = fused_divergence(
            student.hidden, teacher.hidden, student.head, weights, temperature=self.temperature, clip=None
        )
        count = torch.tensor(len(weights), device=weights.device)
        return LossTerms({"unsure": Term(total, per="tokens")}, {"teacher_entropy": (weights.sum(), count)})


def build(config: TrainConfig) -> UnsureTokens:
    return UnsureTokens(config.rollout.temperature)


if __name__ == "__main__":
    phf.register_objective("unsure-tokens", build)
    run = phf.train(objective="unsure-tokens", steps=2, config={"batch_size": 4, "rollout.max_new_tokens": 48})
    print(run.metrics.to_pandas()[["loss", "teacher_entropy"]])
