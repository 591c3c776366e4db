"""What an estimate from sampled tokens needs: the whole distribution, and weights for tokens of another policy."""

from torch import Tensor

from phfcli.core.config import RolloutSettings
from phfcli.core.errors import UserError
from phfcli.core.losses.policy_gradient import truncated_weights
from phfcli.core.models.passes import Batch


def require_whole_distribution(rollout: RolloutSettings, recipe: str) -> None:
    """Raises UserError for rollouts with top-p or top-k; `recipe` is the shipped one that has neither."""
    for name, value, off in (("top_p", rollout.top_p, 1), ("top_k", rollout.top_k, 0)):
        if value != off:
            raise UserError(
                f"rollout.{name}: {value} cuts the distribution whose log-probabilities this objective needs; "
                f"--set rollout.{name}={off}, or put --config {recipe} after the other recipes"
            )


def importance_weights(batch: Batch, logprobs: Tensor, cap: float) -> Tensor:
    """min(p / p_drawn, cap) of each token, [N], a constant.

    p_drawn is what the engine drew from: kernels and a precision of its own, and older weights with `rollout.ahead`.

    Args:
        logprobs: [N] under the policy that trains.
    """
    return truncated_weights(logprobs, batch.drawn_logprobs.to(logprobs.dtype), cap)
