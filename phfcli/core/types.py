"""The plain records that the rooms pass to each other."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """A problem x, its reference solution r where there is one, and its gold answer where there is one."""

    id: str
    problem: str
    solution: str | None = None
    answer: str | None = None
    accepted: tuple[str, ...] = ()  # all accepted answers, `answer` first, where there are several
    columns: tuple[tuple[str, str], ...] = ()  # further cells of the row, where somebody asks for them

    @property
    def golds(self) -> tuple[str, ...]:
        """The answers of which any counts as correct; none where there is no gold answer."""
        return self.accepted or (() if self.answer is None else (self.answer,))


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn from the model."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    max_new_tokens: int = 1024


@dataclass(frozen=True)
class Request:
    """One completion to draw: the prompt's token ids and the seed of this very sample."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """A sampled completion. `ids` ends with the end-of-sequence token if `finish` is "stop"."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of each sampled token, under the distribution it was drawn from, in nats
    finish: Literal["stop", "length"]

    @property
    def whole(self) -> bool:
        """Whether the model ended it; else the token limit has cut it."""
        return self.finish == "stop"
