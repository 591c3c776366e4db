"""Builds the objective that the settings name, and refuses settings that do not go with it."""

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.extensions import conforming, find
from phfcli.core.objectives.contract import BUILDERS, Needs, Objective
from phfcli.core.objectives.distillation import Weighted
from phfcli.core.objectives.policy import Rewarded, build_grpo
from phfcli.core.objectives.reference import NearBase


def build_objective(config: TrainConfig) -> Objective:
    """The objective that config.objective names, one of phf's own or one that was added.

    Raises:
        UserError: for settings that it cannot be computed with.
    """
    build = BUILDERS.get(config.objective) or find("objectives", config.objective)
    assert build is not None  # the settings have been checked
    objective: Objective = conforming("objectives", config.objective, build(config), Objective)
    conforming("objectives", config.objective, objective.needs, Needs)
    _check_settings(config, objective.needs)
    if config.weights != "uniform":
        objective = Weighted(objective, config.weights)
    if config.reward_weight > 0:
        objective = Rewarded(objective, build_grpo(config), config.reward_weight)
    if config.base_kl > 0:
        objective = NearBase(objective, config.base_kl, config.rollout.temperature)
    return objective


def _check_settings(config: TrainConfig, needs: Needs) -> None:
    """Raises UserError for a setting that this objective has no use for, or that would make its loss another."""
    name, rollout = config.objective, config.rollout
    if rollout.per_problem > 1 and needs.own_completions:
        raise UserError(
            f"rollout.per_problem: {name} has its own number of completions of a problem; leave rollout.per_problem out"
        )
    if rollout.ahead and needs.offline:
        raise UserError(f"rollout.ahead: {name} reads the references and draws nothing that could be drawn ahead")
    if config.reward_weight > 0 and needs.own_completions:
        raise UserError(f"reward_weight: {name} is no distillation that a reward could stand beside")
    if config.reward_weight > 0 and rollout.per_problem > 1:
        raise UserError("rollout.per_problem: with reward_weight a problem has grpo.group_size completions")
    if rollout.references > 0 and (needs.on_policy or config.reward_weight > 0):
        raise UserError(f"rollout.references: {name} estimates from tokens that the student drew, so all have to be")
    if config.target.against is not None and not needs.contexts:
        raise UserError(f"target.against: {name} has no divergence from a target; leave target out")
    if config.weights != "uniform" and not needs.weighs_tokens:
        raise UserError(f"weights: {name} has a term that weighs all tokens alike; leave weights out")
