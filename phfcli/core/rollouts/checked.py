"""Checks what an engine has drawn, whether a server or vLLM in this machine: nothing of it is trusted.

A token outside the vocabulary would be decoded to nothing, an end token in the middle would hide what follows it, and
an impossible log-probability would enter a loss: each would be graded or trained on without a word.
"""

import math
from collections.abc import Sequence

from phfcli.core.types import Completion, Sampling

_ROUNDING = 1e-3  # nats above 0 that a log-probability in low precision may have


class ImpossibleCompletionError(ValueError):
    """A completion that no engine can have drawn; the message says why."""


def checked(
    completion: Completion, sampling: Sampling, vocabulary: int, endings: Sequence[int], logprobs: bool
) -> Completion:
    """The completion, if it can have been drawn.

    Args:
        vocabulary: the number of token ids, which begin at 0.
        endings: the tokens that end a completion.
        logprobs: whether a log-probability of each token was asked for.

    Raises:
        ImpossibleCompletionError: if it cannot.
    """
    ids, scores = completion.ids, completion.logprobs
    if len(ids) > sampling.max_new_tokens:
        raise ImpossibleCompletionError(f"{len(ids)} tokens where at most {sampling.max_new_tokens} were asked for")
    for token in ids:
        if not 0 <= token < vocabulary:
            raise ImpossibleCompletionError(f"the token id {_short(token)} outside the vocabulary of {vocabulary}")
    if any(token in endings for token in ids[:-1]):
        raise ImpossibleCompletionError("an end-of-sequence token in the middle")
    if logprobs and len(scores) != len(ids):
        raise ImpossibleCompletionError(f"{len(scores)} log-probabilities for {len(ids)} tokens")
    for score in scores:
        if not (math.isfinite(score) and score <= _ROUNDING):
            raise ImpossibleCompletionError(f"the log-probability {score} of a token that was drawn")
    return completion


def _short(number: int) -> str:
    """A number of any size in a few characters."""
    return str(number) if abs(number) < 10**18 else f"of more than {18} digits"
