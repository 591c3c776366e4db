"""The objectives that draw the student towards a teacher: outputs (OPSD, OPD), hidden flow (PHF) and states (OPRD)."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from phfcli.core.config import Aggregate, DivergenceSettings, RolloutSettings, TrainConfig, Weight, weight_at
from phfcli.core.errors import UserError
from phfcli.core.losses.divergence import Contrast, sampled_reverse_kl
from phfcli.core.losses.flow import Local, flow_loss, flow_terms, layer_losses, terms_of_blocks
from phfcli.core.losses.fused_divergence import fused_divergence_stats
from phfcli.core.losses.pointwise import mean_cosine, pointwise_loss
from phfcli.core.losses.policy_gradient import token_logprobs, token_logprobs_and_entropy
from phfcli.core.losses.positions import after, normalised, rising
from phfcli.core.models.architecture import pick_layers
from phfcli.core.models.passes import Batch, Pass, common_heads, states_with_final_norm
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
from phfcli.core.objectives.other_teachers import load_bridge


@dataclass(frozen=True)
class OutputDivergence:
    """OPSD (eq. 3): the divergence of the two next-token distributions on the student's own tokens.

    Eq. 3 is of one rollout; over a batch it is a mean over all tokens, or over each rollout's own first.
    """

    settings: DivergenceSettings
    temperature: float
    needs: Needs = Needs()
    contrast: Contrast | None = None  # of the teacher's readings: under its own context, then the further ones

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        divisors, per = token_divisors(batch, self.settings.aggregate)
        weights = (1.0 if batch.weights is None else batch.weights) / divisors.float()
        if batch.gate is not None:
            weights, per = weights * batch.gate.open, "gated"
        head, teacher_head = common_heads(student, teacher)
        target = teacher.hidden
        if self.contrast is not None:
            target = torch.stack([teacher.hidden, *(read.hidden for read in batch.readings)], dim=1)  # [N, K, d]
        total, clip = fused_divergence_stats(
            student.hidden,
            target,
            head,
            weights,
            teacher_head=teacher_head,
            contrast=self.contrast,
            temperature=self.temperature,
            stops=tuple(stop for stop in student.stops if stop < len(head)) if self.settings.one_stop else (),
            **self.settings.of_each_token(),
        )
        tokens = weights.new_full((), batch.counts["gated"])
        metrics = {
            "divergence": (total.detach(), weights.new_full((), batch.counts[per])),
            "clip_share": (clip.raw - clip.clipped, clip.raw),  # of the divergence, that the clip takes
            "clipped_entries": (clip.entries_clipped, clip.entries),
            "turned_entries": (clip.entries_turned, clip.entries_clipped),
            "clipped_tokens": (clip.tokens_clipped, tokens),
            "turned_tokens": (clip.tokens_turned, tokens),  # the clip drives these away from where they would go
        }
        readings = TokenReadings(clip.entropy, clip.divergence)
        if batch.gate is not None:
            readings = TokenReadings(batch.gate.entropy, clip.divergence, batch.gate.open)
            metrics["gate_share"] = (tokens, weights.new_full((), len(weights)))
        weight = weight_at(self.settings.weight, batch.updates)
        return LossTerms({"divergence": Term(total, per, weight)}, metrics, readings)


@dataclass(frozen=True)
class HiddenFlow:
    """The flow of hidden states along the rollout (eqs. 4 to 13), in the paper's variants."""

    alpha: Weight
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
        weight = weight_at(self.alpha, batch.updates)
        return LossTerms({"flow": Term(loss * count, per="flows", weight=weight)}, metrics)


@dataclass(frozen=True)
class PointwiseStates:
    """The squared difference of both readers' states, through the bridge where there is one."""

    weight: Weight
    needs: Needs
    normalized: bool
    aggregate: Aggregate = "sequence"

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        own, other = (
            states_with_final_norm(student, teacher) if self.needs.final_norm else (student.states, teacher.states)
        )
        if self.needs.bridge is not None:
            own, other = self.needs.bridge.project(own, other)
        by_sample = self.aggregate == "sequence"
        loss, count = pointwise_loss(own, other, batch.valid, self.normalized, by_sample)
        samples = batch.valid.any(-1).sum()
        metrics = {
            "pointwise": (loss.detach() * count, count),
            "state_cosine": (mean_cosine(own.detach(), other, batch.valid) * samples, samples),
        }
        weight = weight_at(self.weight, batch.updates)
        return LossTerms({"pointwise": Term(loss * count, "states" if by_sample else "positions", weight)}, metrics)


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
    weight: Weight = 1.0

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
        count = total.new_full((), len(logprobs))
        weight = weight_at(self.weight, batch.updates)
        return LossTerms(
            {"reverse_kl": Term(total, "tokens", weight)}, {"reverse_kl": (total.detach(), count)}, readings
        )

    def _weights(self, logprobs: Tensor, batch: Batch) -> Tensor:
        """Of each token, [N]."""
        if not self.rollout.ahead:
            return torch.ones_like(logprobs)
        return importance_weights(batch, logprobs, _RATIO_CAP)


_RISING = (0.25, 0.30, 0.10)  # least, middle and width of PW-OPSD's "moderate" sigmoid


@dataclass(frozen=True)
class Weighted:
    """The objective on batches whose tokens have weights, as config.weights names them."""

    objective: Objective
    kind: str

    @property
    def needs(self) -> Needs:
        return self.objective.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        return self.objective.loss(student, teacher, replace(batch, weights=self.weights(batch)))

    def weights(self, batch: Batch) -> Tensor:
        """[N]; the sigmoid as it is, others with the mean 1 over each completion."""
        rows, offsets = batch.tokens
        lengths = batch.lengths[rows]
        if self.kind == "sigmoid":
            return rising(offsets, lengths, *_RISING)
        return normalised(after(offsets, int(self.kind.rpartition("-")[2])), offsets, lengths)


def _needs(config: TrainConfig) -> Needs:
    """What every distillation needs. A teacher that is the student itself has to be shown more than the student is."""
    return Needs(completions=config.rollout.per_problem, privileged=config.teacher.kind != "external")


def _outputs(config: TrainConfig, settings: DivergenceSettings, needs: Needs) -> OutputDivergence:
    needs = replace(needs, weighs_tokens=True, divergence=settings.kind, gate=settings.gate)
    return OutputDivergence(settings, loss_temperature(config), needs)


@builds("opsd")
def build_opsd(config: TrainConfig) -> OutputDivergence:
    target, own = config.target, config.teacher.context
    needs = replace(_needs(config), sections=("divergence", "target", "teacher"), contexts=target.further(own))
    outputs = _outputs(config, config.divergence, needs)
    if target.against is None:
        return outputs
    contexts = (own, *needs.contexts)
    places = (contexts.index(target.start or own), 0, contexts.index(target.against))
    return replace(outputs, contrast=Contrast(places, target.beta, target.bound, target.floor))


def _states(config: TrainConfig) -> Needs:
    """What every loss beside OPSD's needs that reads the states of the blocks of `flow.layers`."""
    flow, outputs = config.flow, build_opsd(config).needs
    return replace(
        outputs,
        sections=Needs().sections,
        layers=flow.layers,
        next_layers=flow.adjacent == "next",
        positions=flow.positions,
    )


def _build_flow(config: TrainConfig, adjacent: bool, local: Local) -> Sum:
    """OPSD + alpha * flow (eq. 14), with or without the term between neighbouring layers (eq. 10)."""
    return Sum(build_opsd(config), HiddenFlow(config.flow.alpha, _states(config), adjacent, local))


_FLOWS: dict[
    str, tuple[bool, Local]
] = {  # name: whether neighbouring layers are related, and what of each layer counts
    "phf": (True, "both"),  # the recipe (eq. 13)
    "phf-local": (False, "both"),  # eq. 12
    "phf-direction": (True, "half-direction"),
    "phf-geometry": (True, "half-geometry"),
    "direction": (False, "direction"),
    "geometry": (False, "geometry"),
}
for _name, (_adjacent, _local) in _FLOWS.items():
    builds(_name)(partial(_build_flow, adjacent=_adjacent, local=_local))


@builds("pointwise")
def build_pointwise(config: TrainConfig) -> Sum:
    needs = replace(_states(config), next_layers=False, weighs_tokens=False)
    return Sum(build_opsd(config), PointwiseStates(config.flow.alpha, needs, normalized=True))


@builds("opd")
def build_opd(config: TrainConfig) -> OutputDivergence | SampledReverseKL:
    needs = replace(_needs(config), sections=("opd", "teacher"))
    if config.opd.support == "sampled":
        needs = replace(needs, on_policy=True)
        return SampledReverseKL(config.rollout, loss_temperature(config), needs, config.opd.weight)
    return _outputs(config, config.opd.divergence, needs)


@builds("oprd")
def build_oprd(config: TrainConfig) -> PointwiseStates | Sum:
    """Hidden states alone, or OPD + mu * hidden states."""
    settings = config.oprd
    bridge = None if settings.bridge is None else load_bridge(Path(settings.bridge))
    if bridge is not None and (settings.layers not in (None, "all") or config.teacher.kind != "external"):
        raise UserError("oprd.bridge: it brings its own oprd.layers, and leads to the teacher.model it was fitted to")
    count, where = settings.selection
    outputs = None if settings.mu is None else build_opd(config)
    needs = replace(
        _needs(config) if outputs is None else outputs.needs,
        weighs_tokens=False,
        sections=("oprd", "teacher") if outputs is None else ("oprd", "opd", "teacher"),
        outputs=outputs is not None,
        layers=bridge.layers if bridge is not None else settings.layers or "last",
        positions=count,
        where=where,
        final_norm=True,
        bridge=bridge,
    )
    states = PointwiseStates(
        1.0 if settings.mu is None else settings.mu, needs, settings.normalized, settings.aggregate
    )
    return states if outputs is None else Sum(outputs, states)
