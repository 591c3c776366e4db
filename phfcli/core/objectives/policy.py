"""The policy-gradient objectives: GRPO, OISD's alignments beside it, a reward beside a distillation, and OPSA."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.config import GrpoSettings, OisdSettings, RolloutSettings, TrainConfig
from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.losses.pointwise import attention_divergence
from phfcli.core.losses.policy_gradient import clipped_surrogate, group_advantages, token_logprobs_and_entropy
from phfcli.core.losses.positions import working
from phfcli.core.models.device import to_device
from phfcli.core.models.language_model import LogitLens
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import (
    LossTerms,
    Needs,
    Objective,
    Sum,
    Term,
    TokenReadings,
    builds,
    importance_weights,
    loss_temperature,
    require_whole_distribution,
    token_divisors,
)


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
        return Needs(
            completions=self.settings.group_size,
            own_completions=True,
            on_policy=True,
            sections=("grpo",),
            teacher=False,
            privileged=False,
            reward=True,
        )

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        temperature = self.rollout.temperature
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids, temperature)
        weights = importance_weights(batch, logprobs, self.settings.ratio_cap)
        advantages, flat = sample_advantages(batch, self.settings.normalize, logprobs)
        rows, _ = batch.tokens
        losses = weights * clipped_surrogate(logprobs, logprobs, advantages[rows], self.settings.epsilon)
        divisors, per = token_divisors(batch, self.settings.aggregate)
        tokens, samples = logprobs.new_full((), len(rows)), logprobs.new_full((), len(flat))
        metrics = {
            "flat_groups": (flat.sum(), samples),  # share of groups whose rewards are all equal
            "weights_capped": ((weights == self.settings.ratio_cap).to(weights.dtype).sum(), tokens),
        }
        return LossTerms({"policy": Term((losses / divisors).sum(), per)}, metrics, TokenReadings(entropy))


def sample_advantages(batch: Batch, normalize: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of each sample its advantage, and 1 where its group has no spread: [B], [B]."""
    groups = torch.tensor([list(sample.group) for sample in batch.samples], dtype=like.dtype)
    own = torch.tensor([sample.reward for sample in batch.samples], dtype=like.dtype)[:, None]
    groups, own = to_device(groups, like.device), to_device(own, like.device)  # [B, k], [B, 1]
    # completions of equal reward share their advantage: any of them stands for the sample's own
    place = (groups == own).int().argmax(-1, keepdim=True)
    advantages = group_advantages(groups, normalize).gather(-1, place)[:, 0]
    return advantages, (groups.amax(-1) == groups.amin(-1)).to(like.dtype)


# the sampled attention; how much of it OISD samples is not published, and these are ours
QUERIES = 32  # of each completion, evenly spread
WINDOW = 64  # a query's newest keys
STRIDED = 64  # and at most so many of the earlier ones


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
            own_completions=True,
            on_policy=True,
            sections=("oisd", "grpo"),
            teacher=False,
            privileged=False,
            reward=True,
            positions=QUERIES,
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
        metrics = {"think": (total.detach(), total.new_full((), batch.counts[per]))}
        return LossTerms({"think": Term(total, per, self.settings.think)}, metrics)

    def _attention(self, lens: LogitLens, batch: Batch, advantages: Tensor) -> LossTerms:
        """Attention alignment: where to look (eq. 10), a mean over each sample's queries and heads."""
        columns = (batch.student.prompt_lengths[:, None] + batch.positions - 1).clamp(min=0)
        apart = attention_divergence(lens.attention, lens.last, columns, WINDOW, STRIDED)
        apart = apart.masked_fill(~batch.valid, 0)  # [B, m]
        own = apart.sum(-1) / batch.valid.sum(-1).clamp(min=1)
        metrics = {"attention_gap": (own.detach().sum(), own.new_full((), batch.counts["samples"]))}
        return LossTerms({"attention": Term((own * advantages).sum(), "samples", self.settings.attention)}, metrics)


@dataclass(frozen=True)
class Rewarded:
    """The distillation plus `weight` times GRPO's loss, on the same completions of groups of one problem."""

    distillation: Objective
    policy: GroupPolicy
    weight: float

    @property
    def needs(self) -> Needs:
        needs, policy = self.distillation.needs, self.policy.needs
        return replace(
            needs,
            completions=policy.completions,
            on_policy=True,
            sections=(*needs.sections, *policy.sections),
            reward=True,
        )

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        rewarded = self.policy.loss(student, None, batch)
        terms = {name: replace(term, weight=self.weight * term.weight) for name, term in rewarded.terms.items()}
        return self.distillation.loss(student, teacher, batch) + replace(rewarded, terms=terms)


@builds("grpo")
def build_grpo(config: TrainConfig) -> GroupPolicy:
    return GroupPolicy(config.grpo, config.rollout)


@builds("oisd")
def build_oisd(config: TrainConfig) -> Sum:
    """GRPO and OISD's two alignments."""
    return Sum(build_grpo(config), InternalAlignment(config.oisd, config.grpo, loss_temperature(config)))


_UNLIKELY = 0.2  # of a completion's tokens
_ADVANTAGE = -0.5  # of each of them, whatever the completion is worth


@dataclass(frozen=True)
class UnlikelyTokens:
    """OPSA in its fixed mode (2608.31046): the tokens that the policy itself finds least likely become less so.

    It reads no reference, no reward and no teacher: a control for what distils. The paper takes the fifth of all tokens
    of a data-parallel batch; here it is a fifth of each completion, so that micro-batches and ranks do not change it.
    """

    temperature: float
    needs: Needs = Needs(on_policy=True, sections=(), teacher=False, privileged=False)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids, self.temperature)
        chosen = least_likely(logprobs.detach(), batch.tokens[0], batch.lengths)
        total = -(_ADVANTAGE * logprobs[chosen]).sum() / _UNLIKELY  # over tokens / a fifth: the mean over the chosen
        metrics = {"unlikely_logprob": (logprobs.detach()[chosen].sum(), chosen.sum())}
        return LossTerms({"unlikely": Term(total, per="tokens")}, metrics, TokenReadings(entropy))


def least_likely(logprobs: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    """Which tokens are among the floor(a fifth) of their completion that are least likely, bool [N].

    Args:
        logprobs: [N].
        rows: [N], the completion of each token, ascending.
        lengths: [B], tokens of each completion.
    """
    order = logprobs.argsort(stable=True)
    order = order[rows[order].argsort(stable=True)]  # by completion, then by log-probability
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (lengths.cumsum(0) - lengths)[rows]
    return rank < (_UNLIKELY * lengths).floor()[rows]


@builds("opsa")
def build_opsa(config: TrainConfig) -> UnlikelyTokens:
    return UnlikelyTokens(config.rollout.temperature)
