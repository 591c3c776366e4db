"""Objectives by name: each says what it needs and how its terms add up; the loop never asks which it runs."""

from collections.abc import Callable

from phfcli.core.config import TrainConfig
from phfcli.core.losses.flow import Local
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Sum, Term
from phfcli.core.objectives.distillation import HiddenFlow, OutputDivergence, PointwiseStates
from phfcli.core.objectives.internal import InternalAlignment
from phfcli.core.objectives.policy import GroupPolicy
from phfcli.core.objectives.reference import ReferenceLikelihood


def build_objective(config: TrainConfig) -> Objective:
    """The objective that config.objective names. Raises UserError for settings that it cannot be computed with."""
    return _BUILDERS[config.objective](config)


def _opsd(config: TrainConfig) -> Objective:
    return OutputDivergence(config.divergence, config.divergence.temperature or config.rollout.temperature)


def _grpo(config: TrainConfig) -> Objective:
    return GroupPolicy(config.grpo, config.rollout)


def _oisd(config: TrainConfig) -> Objective:
    temperature = config.divergence.temperature or config.rollout.temperature
    return Sum(_grpo(config), InternalAlignment(config.oisd, config.grpo, temperature))


def _states(config: TrainConfig) -> Needs:
    return Needs(layers=config.flow.layers, positions=config.flow.positions)


def _flow(adjacent: bool, local: Local = "both") -> Callable[[TrainConfig], Objective]:
    return lambda config: Sum(_opsd(config), HiddenFlow(config.flow.alpha, _states(config), adjacent, local))


_BUILDERS: dict[str, Callable[[TrainConfig], Objective]] = {
    "opsd": _opsd,
    "phf": _flow(adjacent=True),
    "phf-local": _flow(adjacent=False),
    "direction": _flow(adjacent=False, local="direction"),
    "geometry": _flow(adjacent=False, local="geometry"),
    "pointwise": lambda config: Sum(_opsd(config), PointwiseStates(config.flow.alpha, _states(config))),
    "sft": lambda config: ReferenceLikelihood(config.sft),
    "grpo": _grpo,
    "oisd": _oisd,
}

__all__ = ["LossTerms", "Needs", "Objective", "Sum", "Term", "build_objective"]
