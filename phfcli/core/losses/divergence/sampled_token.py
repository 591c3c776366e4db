"""The reverse KL divergence from the sampled token alone, as a policy gradient: OPD's one-token form.

For y drawn from the student S, ln S(y) - ln T(y) is an unbiased estimate of KL(S || T), and its product with the
gradient of ln S(y) one of the gradient: the term that is left out, the gradient of ln S(y) alone, has mean zero.
"""

from torch import Tensor


def sampled_reverse_kl(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """The estimate of each token, [N], with the policy gradient of the advantage ln T(y) - ln S(y), a constant.

    Args:
        logprobs, teacher_logprobs: [N] of the sampled tokens, in nats; the gradient flows to `logprobs` only.
    """
    advantages = (teacher_logprobs - logprobs).detach()
    return -advantages * (logprobs - logprobs.detach()).exp()  # a ratio of 1 with the gradient of ln S(y)
