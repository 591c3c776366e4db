"""The protocol of an engine that samples completions, and the check of its completions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from phfcli.core.config import ModelSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.types import Completion, Request, Sampling


@dataclass(frozen=True)
class Serving:
    """The model that an engine serves.

    Attributes:
        settings: the base model, its device and precision, and the options of the engines.
        length: tokens of the longest sequence, prompt and completion together.
        adapter: the PEFT folder of an adapter on the base model, or None.
    """

    settings: ModelSettings
    length: int
    adapter: Path | None = None


@runtime_checkable
class Engine(Protocol):
    """Samples completions."""

    name: str

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, its completion) as completions finish, in any order.

        A completion depends on its own prompt and seed only, not on what else is sampled beside it. With `logprobs`
        false an engine may leave the log-probabilities empty.
        """
        ...

    def close(self) -> None:
        """Ends the processes and threads that the engine has started."""
        ...


@runtime_checkable
class TrainingEngine(Engine, Protocol):
    """An engine that follows a model in training."""

    def update(self, model: LanguageModel) -> None:
        """Takes over the model's present weights; all later completions are sampled under them."""
        ...


_ROUNDING = 1e-3  # nats above 0 that rounding in low precision may give a log-probability


class ImpossibleCompletionError(ValueError):
    """A completion that no sound engine can have sampled; the message says why."""


def checked(
    completion: Completion, sampling: Sampling, vocabulary: int, endings: Sequence[int], logprobs: bool
) -> Completion:
    """The completion itself, if it is possible.

    Args:
        vocabulary: the number of token ids, which begin at 0.
        endings: the tokens that end a completion.
        logprobs: whether the completion must have a log-probability for each token.

    Raises:
        ImpossibleCompletionError: if it is not.
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
