"""Rollout engines: token ids in, token ids and log-probabilities out. Training and evaluation use the same ones."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from phfcli.core.models import LanguageModel
from phfcli.core.records import Completion, Request, Sampling
from phfcli.core.rollouts.transformers_engine import TransformersEngine


class Engine(Protocol):
    """Draws completions."""

    name: str

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        """Yields (index of the request, its completion) as they finish, in any order.

        A completion depends on its own prompt and seed, not on what else is sampled beside it.
        """
        ...


def build_engine(name: str, model: LanguageModel) -> Engine:
    """The engine of that name; "auto" takes the best that is usable here."""
    assert name in ("auto", "transformers")
    return TransformersEngine(model)


__all__ = ["Engine", "TransformersEngine", "build_engine"]
