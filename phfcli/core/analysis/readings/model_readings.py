"""What only a model can say of rollouts, as plain records; `from_model` makes them."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class OutputReadings:
    """How alike the next-token distributions of student and teacher are (OPRD, figures 10 and 11).

    Means over tokens; a list has the sixteenths of the rollouts, None where no token lies.
    """

    tokens: int
    top: int  # words of each reader that are compared
    overlap: float  # the share of them that both readers have
    entropy_student: float  # nats
    entropy_teacher: float
    overlap_along: list[float | None]
    entropy_student_along: list[float | None]
    entropy_teacher_along: list[float | None]


@dataclass(frozen=True)
class LensReadings:
    """What each block's state would predict if the head read it (OISD, eq. 5; figures 2, 5 and 7).

    Means over tokens, by block: 1 is the first. The last block's prediction is the student's own.
    """

    shadow: int  # the block that OISD would train
    entropy: list[float]  # nats
    agreement: list[float]  # the share of tokens whose likeliest word is the last block's
    divergence: list[float]  # jsd(0.5) from the last block's prediction, in nats (eq. 7 without advantages)
    words: list[str]  # of the beginning of the first rollout
    likeliest: list[list[str]]  # in the place of each of these, by block

    def by_layer(self) -> tuple[list[float], list[float], list[float]]:
        return self.entropy, self.agreement, self.divergence


@dataclass(frozen=True)
class TokenAttention:
    """The share of the attention that one token of the first rollout gets, prompt included."""

    column: int  # 0 is the first token of the prompt
    text: str
    shadow: float
    last: float


@dataclass(frozen=True)
class AttentionReadings:
    """Where OISD's shadow block looks, beside the last block (OISD, figure 6); means over heads.

    The maps are of the first rollout: [queries, spread over the rollout][parts of its tokens, prompt included].
    """

    divergence: float  # eq. 10 without advantages, which training logs as attention_gap
    agreement: float  # 1 - divergence / ln 2: 1 where both look alike, 0 where they share no token
    shadow_map: list[list[float]]  # shares of the attention; each row sums to 1
    last_map: list[list[float]]
    columns: list[int]  # of the queries
    tokens: list[TokenAttention]  # those that get most, from queries in the last quarter of the rollout


@dataclass(frozen=True)
class ModelReadings:
    """All of it; distributions are at this temperature, that of the rollouts."""

    temperature: float
    outputs: OutputReadings
    lens: LensReadings
    attention: AttentionReadings | None  # None where the model's attention cannot be captured, for this reason:
    no_attention: str | None = None
    gradients: dict[str, float] | None = None  # of each loss term the norm, with its weight; where it was asked for

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
