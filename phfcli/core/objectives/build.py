"""Builds the objective that the settings name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.extensions import find
from phfcli.core.losses.flow import Local
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Sum, Term
from phfcli.core.objectives.distillation import (
    HiddenFlow,
    OutputDivergence,
    PointwiseStates,
    SampledReverseKL,
    Weighted,
)
from phfcli.core.objectives.other_teachers import load_bridge
from phfcli.core.objectives.policy import GroupPolicy, InternalAlignment, Rewarded
from phfcli.core.objectives.reference import NearBase, ReferenceLikelihood


def build_objective(config: TrainConfig) -> Objective:
    """The objective that config.objective names. Raises UserError for settings that it cannot be computed with."""
    if config.objective in _BUILDERS:
        objective = _BUILDERS[config.objective](config)
    else:
        added = find("objectives", config.objective)
        assert added is not None  # the settings have been checked
        objective = added(config)
    if config.weights != "uniform":
        objective = Weighted(objective, config.weights, _temperature(config))
    if config.reward_weight > 0:
        objective = Rewarded(objective, _grpo(config), config.reward_weight)
    if config.base_kl > 0:
        objective = NearBase(objective, config.base_kl, config.rollout.temperature)
    return objective


def _privileged(config: TrainConfig) -> bool:
    """Whether the teacher is the student itself, which then has to be shown more than the student is."""
    return config.teacher.kind != "external"


def _opsd(config: TrainConfig) -> Objective:
    return OutputDivergence(config.output_divergence, _temperature(config), _needs(config))


def _needs(config: TrainConfig) -> Needs:
    """What every distillation needs."""
    return Needs(completions=config.rollout.per_problem, privileged=_privileged(config))


def _temperature(config: TrainConfig) -> float:
    return config.divergence.temperature or config.rollout.temperature


def _grpo(config: TrainConfig) -> GroupPolicy:
    return GroupPolicy(config.grpo, config.rollout)


def _oisd(config: TrainConfig) -> Objective:
    return Sum(_grpo(config), InternalAlignment(config.oisd, config.grpo, _temperature(config)))


def _pointwise(config: TrainConfig) -> Objective:
    needs = replace(_states(config), next_layers=False)
    return Sum(_opsd(config), PointwiseStates(config.flow.alpha, needs, normalized=True))


def _states(config: TrainConfig) -> Needs:
    flow = config.flow
    return replace(_needs(config), layers=flow.layers, next_layers=flow.adjacent == "next", positions=flow.positions)


def _flow(adjacent: bool, local: Local = "both") -> Callable[[TrainConfig], Objective]:
    return lambda config: Sum(_opsd(config), HiddenFlow(config.flow.alpha, _states(config), adjacent, local))


def _opd(config: TrainConfig) -> Objective:
    if config.opd.support != "sampled":
        return _opsd(config)
    return SampledReverseKL(config.rollout, _temperature(config), _needs(config))


def _oprd(config: TrainConfig) -> Objective:
    settings = config.oprd
    bridge = None if settings.bridge is None else load_bridge(Path(settings.bridge))
    if bridge is not None and (settings.layers is not None or config.teacher.kind != "external"):
        raise UserError("oprd.bridge: it brings its own oprd.layers, and leads to the teacher.model it was fitted to")
    count, where = settings.selection
    needs = replace(
        _needs(config),
        outputs=settings.mu is not None,
        layers=bridge.layers if bridge is not None else settings.layers or "last",
        positions=count,
        where=where,
        final_norm=True,
        bridge=bridge,
    )
    weight = 1.0 if settings.mu is None else settings.mu
    states = PointwiseStates(weight, needs, settings.normalized)
    return states if settings.mu is None else Sum(_opd(config), states)


_BUILDERS: dict[str, Callable[[TrainConfig], Objective]] = {
    "opsd": _opsd,
    "phf": _flow(adjacent=True),
    "phf-local": _flow(adjacent=False),
    "phf-direction": _flow(adjacent=True, local="half-direction"),
    "phf-geometry": _flow(adjacent=True, local="half-geometry"),
    "direction": _flow(adjacent=False, local="direction"),
    "geometry": _flow(adjacent=False, local="geometry"),
    "pointwise": _pointwise,
    "sft": lambda config: ReferenceLikelihood(config.sft),
    "grpo": _grpo,
    "opd": _opd,
    "oprd": _oprd,
    "oisd": _oisd,
}

__all__ = ["LossTerms", "Needs", "Objective", "Sum", "Term", "build_objective"]
