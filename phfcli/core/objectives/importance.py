"""What a token counts that was drawn from another policy than the one that trains on it."""

from torch import Tensor

from phfcli.core.losses.policy_gradient import truncated_weights
from phfcli.core.models.passes import Batch


def importance_weights(batch: Batch, logprobs: Tensor, cap: float) -> Tensor:
    """min(p / p_drawn, cap) of each token, [N], a constant.

    p_drawn is what the engine drew from: kernels and a precision of its own, and older weights with `rollout.ahead`.

    Args:
        logprobs: [N] under the policy that trains.
    """
    drawn = logprobs.new_tensor([value for sample in batch.samples for value in sample.logprobs])
    return truncated_weights(logprobs, drawn, cap)
