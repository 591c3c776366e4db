"""The objectives that draw the student towards a teacher: outputs (OPSD, OPD), hidden flow (PHF) and states (OPRD)."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.config import DivergenceSettings, RolloutSettings
from phfcli.core.losses.divergence import sampled_reverse_kl
from phfcli.core.losses.flow import Local, flow_loss, flow_terms, layer_losses, terms_of_blocks
from phfcli.core.losses.fused_divergence import fused_divergence_stats
from phfcli.core.losses.pointwise import mean_cosine, pointwise_loss
from phfcli.core.losses.policy_gradient import token_logprobs, token_logprobs_and_entropy
from phfcli.core.losses.positions import FORK_ENTROPY, after, normalised, prefix_importance, ramp
from phfcli.core.models.architecture import pick_layers
from phfcli.core.models.passes import Batch, Pass, common_heads, states_with_final_norm
from phfcli.core.objectives.contract import (
    LossTerms,
    Needs,
    Objective,
    Term,
    TokenReadings,
    importance_weights,
    require_whole_distribution,
    token_divisors,
)


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


@dataclass(frozen=True)
class HiddenFlow:
    """The flow of hidden states along the rollout (eqs. 4 to 13), in the paper's variants."""

    alpha: float
    needs: Needs
    adjacent: bool = True
    local: Local = "both"

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        terms = flow_terms(student.states, teacher.states, batch.valid, weights=batch.position_weights)
        if self.needs.next_layers:
            terms = terms_of_blocks(terms, student.layers, pick_layers(self.needs.layers, student.depth))
        loss = flow_loss(terms, adjacent=self.adjacent, local=self.local)
        count = terms.samples
        layer_energy = layer_losses(terms).detach()  # eq. 8, [L]
        metrics = {
            "flow": (loss.detach() * count, count),
            "flow_direction": (terms.direction.detach().mean() * count, count),
            "flow_geometry": (terms.geometry.detach().mean() * count, count),
            "flow_adjacent": (terms.adjacent.detach().sum() / max(len(terms.adjacent), 1) * count, count),
            "layer_energy": (layer_energy * count, count),
        }
        return LossTerms({"flow": Term(loss * count, per="flows", weight=self.alpha)}, metrics)


@dataclass(frozen=True)
class PointwiseStates:
    """The squared difference of both readers' states, through the bridge where there is one."""

    weight: float
    needs: Needs
    normalized: bool

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        own, other = (
            states_with_final_norm(student, teacher) if self.needs.final_norm else (student.states, teacher.states)
        )
        if self.needs.bridge is not None:
            own, other = self.needs.bridge.project(own, other)
        loss, count = pointwise_loss(own, other, batch.valid, self.normalized)
        metrics = {
            "pointwise": (loss.detach() * count, count),
            "state_cosine": (mean_cosine(own.detach(), other, batch.valid) * count, count),
        }
        return LossTerms({"pointwise": Term(loss * count, per="states", weight=self.weight)}, metrics)


_RATIO_CAP = 2.0  # as grpo.ratio_cap is by default: it bounds the variance that old rollouts bring


@dataclass(frozen=True)
class SampledReverseKL:
    """KL(student || teacher) of the next token, estimated from the token that was drawn; advantages are detached.

    Where rollouts are drawn a step ahead, each token is weighted by min(exp(logp.detach() - engine_logp), 2):
    it was drawn from the student as it was one update ago, and stands for one drawn from the present one.

    Raises:
        UserError: for rollouts with top-p or top-k, from which the estimate would be of something else.
    """

    rollout: RolloutSettings
    temperature: float
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
        return importance_weights(batch, logprobs, _RATIO_CAP)


@dataclass(frozen=True)
class Weighted:
    """The objective on batches whose tokens have weights, with the mean 1 over each completion.

    Attributes:
        kind: of the weights, as config.weights names it.
        temperature: of both distributions, where the weights are read from them.
    """

    objective: Objective
    kind: str
    temperature: float

    @property
    def needs(self) -> Needs:
        return self.objective.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        return self.objective.loss(student, teacher, replace(batch, weights=self.weights(student, teacher, batch)))

    @torch.no_grad()
    def weights(self, student: Pass, teacher: Pass, batch: Batch) -> Tensor:
        """[N]"""
        rows, offsets = batch.tokens
        lengths = batch.lengths[rows]
        return normalised(self._raw(student, teacher, batch, offsets, lengths), offsets, lengths)

    def _raw(self, student: Pass, teacher: Pass, batch: Batch, offsets: Tensor, lengths: Tensor) -> Tensor:
        if self.kind in ("early", "late"):
            return ramp(offsets, lengths, falling=self.kind == "early")
        if skipped := re.fullmatch(r"skip-first-(\d+)", self.kind):
            return after(offsets, int(skipped[1]))
        read = student.hidden, student.head, batch.token_ids, self.temperature
        if self.kind == "forks":
            entropy = token_logprobs_and_entropy(*read)[1]
            return (entropy > FORK_ENTROPY).to(entropy.dtype)
        taught = token_logprobs(teacher.hidden, teacher.head, batch.token_ids, self.temperature)
        return prefix_importance(token_logprobs(*read), taught, offsets)
