"""OPD on the sampled token alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from phfcli.core.config import RolloutSettings
from phfcli.core.losses.divergence.sampled_token import sampled_reverse_kl
from phfcli.core.losses.policy_gradient import token_logprobs, token_logprobs_and_entropy
from phfcli.core.models.passes import Batch, Pass, common_heads
from phfcli.core.objectives.contract import LossTerms, Needs, Term, TokenReadings
from phfcli.core.objectives.sampled_tokens import importance_weights, require_whole_distribution


@dataclass(frozen=True)
class SampledReverseKL:
    """KL(student || teacher) of the next token, estimated from the token that was drawn; advantages are detached.

    Where rollouts are drawn a step ahead, each token is weighted by min(exp(logp.detach() - engine_logp), ratio_cap):
    it was drawn from the student as it was one update ago, and stands for one drawn from the present one.

    Raises:
        UserError: for rollouts with top-p or top-k, from which the estimate would be of something else.
    """

    rollout: RolloutSettings
    temperature: float
    ratio_cap: float
    needs: Needs = Needs()

    def __post_init__(self) -> None:
        require_whole_distribution(self.rollout, recipe="opd")

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        head, teacher_head = common_heads(student, teacher)
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, head, batch.token_ids, self.temperature)
        with torch.no_grad():
            read_by = head if teacher_head is None else teacher_head
            other = token_logprobs(teacher.hidden, read_by, batch.token_ids, self.temperature)
        total = (self._weights(logprobs, batch) * sampled_reverse_kl(logprobs, other)).sum()
        readings = TokenReadings(entropy, logprobs.detach() - other)
        count = total.new_tensor(len(logprobs))
        return LossTerms({"reverse_kl": Term(total, per="tokens")}, {"reverse_kl": (total.detach(), count)}, readings)

    def _weights(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """Of each token, [N]."""
        if not self.rollout.ahead:
            return torch.ones_like(logprobs)
        return importance_weights(batch, logprobs, self.ratio_cap)
