"""The contract of rollout engines, and the description of what an engine serves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from phfcli.core.config import ModelSettings
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.types import Completion, Request, Sampling


@dataclass(frozen=True)
class Serving:
    """The model that an engine serves.

    Attributes:
        settings: the base model, and how it is run.
        length: of the longest sequence, prompt and completion together, in tokens.
        adapter: a PEFT folder over the base model, if there is one.
    """

    settings: ModelSettings
    length: int
    adapter: Path | None = None


class Engine(Protocol):
    """Draws completions."""

    name: str

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, its completion) as they finish, in any order.

        A completion depends on its own prompt and seed, not on what else is sampled beside it. Without `logprobs` an
        engine may leave them out.
        """
        ...

    def close(self) -> None:
        """Ends whatever processes the engine has started."""
        ...


class TrainingEngine(Engine, Protocol):
    """An engine that follows a model in training."""

    def update(self, model: LanguageModel) -> None:
        """Takes over the model's present weights; what is drawn next is drawn under them."""
        ...
