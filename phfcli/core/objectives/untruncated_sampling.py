"""Checks that rollouts are drawn from the whole distribution, as estimates from sampled tokens require."""

from phfcli.core.config import RolloutSettings
from phfcli.core.errors import UserError


def require_whole_distribution(rollout: RolloutSettings, recipe: str) -> None:
    """Raises UserError for rollouts with top-p or top-k; `recipe` is the shipped one that has neither."""
    for name, value, off in (("top_p", rollout.top_p, 1), ("top_k", rollout.top_k, 0)):
        if value != off:
            raise UserError(
                f"rollout.{name}: {value} cuts the distribution whose log-probabilities this objective needs; "
                f"--set rollout.{name}={off}, or put --config {recipe} after the other recipes"
            )
