"""The records that the packages of core pass to each other: problems, requests and completions."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """A problem x, its reference solution r where there is one, and its gold answer where there is one."""

    id: str
    problem: str
    solution: str | None = None
    answer: str | None = None
    accepted: tuple[str, ...] = ()  # all accepted answers, `answer` first; empty where there is only one
    columns: tuple[tuple[str, str], ...] = ()  # (column, cell) of further columns that the teacher's context names

    @property
    def golds(self) -> tuple[str, ...]:
        """The accepted answers, any of which is correct; empty without a gold answer."""
        return self.accepted or (() if self.answer is None else (self.answer,))


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled from the model."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    max_new_tokens: int = 1024


@dataclass(frozen=True)
class Request:
    """One completion to sample: the prompt's token ids and the seed of this sample."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """A sampled completion. `ids` ends with the end-of-sequence token if `finish` is "stop".

    Attributes:
        served_tokens: the tokens that a server has counted, 0 where it has not, whose text alone is known; `ids` then
            stand for characters. None where `ids` are the model's tokens.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # of each token, under the distribution it was sampled from, in nats
    finish: Literal["stop", "length"]
    served_tokens: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the model ended the completion; otherwise the token limit has cut it."""
        return self.finish == "stop"

    @property
    def looped(self) -> bool:
        """Whether it ends in a loop: a run of 2 to 50 tokens, three times at least, 30 tokens in all (2609.38995)."""
        return any(_periodic_end(self.ids, period) >= max(30, 3 * period) for period in range(2, 51))


def _periodic_end(ids: tuple[int, ...], period: int) -> int:
    """The length of the longest end in which each token is the one that stands `period` before it; 0 for none."""
    repeated = 0
    while repeated + period < len(ids) and ids[-1 - repeated] == ids[-1 - repeated - period]:
        repeated += 1
    return repeated + period if repeated else 0
