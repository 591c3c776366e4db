"""GRPO: rewards relative to those of the same problem's other completions."""

from dataclasses import dataclass

from torch import Tensor

from phfcli.core.config import GrpoSettings, RolloutSettings
from phfcli.core.losses.policy_gradient import (
    clipped_surrogate,
    group_advantages,
    token_logprobs_and_entropy,
)
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Term, TokenReadings
from phfcli.core.objectives.sampled_tokens import importance_weights, require_whole_distribution
from phfcli.core.objectives.token_means import token_divisors


@dataclass(frozen=True)
class GroupPolicy:
    """Policy gradient with group-relative advantages, a clipped ratio; a KL term is `NearBase`'s.

    Each rollout serves one update, so the policy before it is the present one: the ratio of the surrogate is
    exp(logp - logp.detach()), which is 1 with the gradient of logp. What the completions were drawn from is not quite
    that policy: an engine has kernels, a precision and a merged adapter of its own, and older weights where it draws
    ahead. So each token is weighted by min(exp(logp.detach() - engine_logp), ratio_cap), a constant. Both are of the
    distribution at the rollouts' temperature; the engine's, after top-p or top-k, would be renormalised over a support
    that the trainer does not know, so rollouts must be of the whole distribution.

    Raises:
        UserError: for rollouts with top-p or top-k.
    """

    settings: GrpoSettings
    rollout: RolloutSettings

    def __post_init__(self) -> None:
        require_whole_distribution(self.rollout, recipe="grpo")

    @property
    def needs(self) -> Needs:
        return Needs(completions=self.settings.group_size, teacher=False, privileged=False, reward=True)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        temperature = self.rollout.temperature
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids, temperature)
        weights = importance_weights(batch, logprobs, self.settings.ratio_cap)
        advantages, flat = sample_advantages(batch, self.settings.normalize, logprobs)
        rows, _ = batch.tokens
        losses = weights * clipped_surrogate(logprobs, logprobs, advantages[rows], self.settings.epsilon)
        divisors, per = token_divisors(batch, self.settings.aggregate)
        tokens, samples = logprobs.new_tensor(len(rows)), logprobs.new_tensor(len(flat))
        metrics = {
            "flat_groups": (flat.sum(), samples),  # share of groups whose rewards are all equal
            "weights_capped": ((weights == self.settings.ratio_cap).to(weights.dtype).sum(), tokens),
        }
        return LossTerms({"policy": Term((losses / divisors).sum(), per)}, metrics, TokenReadings(entropy))


def sample_advantages(batch: Batch, normalize: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of each sample its advantage, and 1 where its group has no spread: [B], [B]."""
    groups = like.new_tensor([list(sample.group) for sample in batch.samples])  # [B, k]
    own = like.new_tensor([sample.reward for sample in batch.samples])[:, None]
    # completions of equal reward share their advantage: any of them stands for the sample's own
    place = (groups == own).int().argmax(-1, keepdim=True)
    advantages = group_advantages(groups, normalize).gather(-1, place)[:, 0]
    return advantages, (groups.amax(-1) == groups.amin(-1)).to(like.dtype)
