"""The contract of an objective: what it needs, and the terms of its loss.

The loop never asks which objective it runs. An objective is a class with `needs` and `loss`, and a function, marked
with `builds(NAME)`, that makes it from the settings. Its recipe, recipes/NAME.yaml, makes the name known.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from phfcli.core.config import Aggregate, LayerChoice, RolloutSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.policy_gradient import token_logprobs_and_entropy, truncated_weights
from phfcli.core.models.architecture import pick_layers, with_next
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Gate, Pass, run_pass
from phfcli.core.names import Where
from phfcli.core.objectives.other_teachers import Bridge
from phfcli.core.objectives.teachers import Teacher


@dataclass(frozen=True)
class Needs:
    """What the loop has to prepare, and what the settings may ask of the objective.

    Attributes:
        completions: rollouts per problem; 0 is offline, on the reference itself.
        own_completions: their number is the objective's own: `rollout.per_problem` has no say in it.
        on_policy: the loss is an estimate from tokens that the student drew; references cannot stand in their place.
        weighs_tokens: every term counts each token by the batch's weights (the setting `weights`).
        sections: of the settings, those that the objective reads.
        divergence: the kind of the divergence that its metric `divergence` is of, where it has one.
        gate: it looks only at tokens that the student gives at most this probability; None is all.
        teacher: a second pass without grad.
        privileged: that pass reads the prompt that contains the reference.
        contexts: further ones, after which the teacher reads each completion as well: `batch.readings`.
        base: a pass without grad of the model before any training, after the student's own prompt.
        outputs: the two next-token distributions are compared, so both readers must have one tokenizer.
        reward: graded completions; each sample then knows its reward and those of its problem's other completions.
        layers: blocks whose states are wanted, 1 is the first; "all" or None is all of them, () is none.
        next_layers: the states of each one's next block as well.
        final_norm: those of the last block as the head reads them, after the final norm.
        positions: at most so many states of each completion.
        where: which positions those are.
        bridge: the projectors through which an external teacher's states are compared; None compares them as they are.
        lens: a block whose own prediction and attention are wanted beside the last block's; 0 is the one at a sixth
            of the depth, None is none.
        max_tokens: of a prompt and its completion, where that is less than the model's context.
    """

    completions: int = 1
    own_completions: bool = False
    on_policy: bool = False
    weighs_tokens: bool = False
    sections: tuple[str, ...] = ("divergence", "target", "flow", "teacher")
    divergence: str | None = None
    gate: float | None = None
    teacher: bool = True
    privileged: bool = True
    contexts: tuple[str, ...] = ()
    base: bool = False
    outputs: bool = True
    reward: bool = False
    layers: LayerChoice | None = ()
    next_layers: bool = False
    final_norm: bool = False
    positions: int = 128
    where: Where = "spread"
    bridge: Bridge | None = None
    lens: int | None = None
    max_tokens: int | None = None

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The blocks of a model of that depth whose states are wanted, ascending."""
        chosen = pick_layers(self.layers, depth)
        return with_next(chosen, depth) if self.next_layers else chosen

    @property
    def group_size(self) -> int:
        """Samples of each problem in a step; an offline objective has its reference."""
        return max(1, self.completions)

    @property
    def offline(self) -> bool:
        """Whether the references stand in the place of rollouts."""
        return self.completions == 0


Per = Literal["tokens", "gated", "samples", "states", "positions", "flows"]


@dataclass(frozen=True)
class Term:
    """A sum over a part of the batch; the loop divides it by the count, named `per`, of the whole batch."""

    total: Tensor
    per: Per
    weight: float = 1.0

    def share(self, counts: Mapping[str, float]) -> Tensor:
        """What it adds to the loss of the whole batch, whose counts these are."""
        return self.weight * self.total / max(counts[self.per], 1)


@dataclass(frozen=True)
class TokenReadings:
    """What the pass over the vocabulary has told of each of the N valid tokens, without a gradient."""

    entropy: Tensor  # [N] of the student at the objective's temperature, with a gate at the rollouts', in nats
    divergence: Tensor | None = None  # [N] between the readers, before any clip
    gate: Tensor | None = None  # [N] bool, the tokens that the divergence was taken of; None is all


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss, detached metrics as (sum, count) pairs, and what was read of each token on the way."""

    terms: dict[str, Term]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    readings: TokenReadings | None = None

    def __post_init__(self) -> None:
        """Raises TypeError, in the code that makes them, for terms that the loop cannot add up."""
        if not self.terms or not all(isinstance(term, Term) for term in self.terms.values()):
            raise TypeError("LossTerms takes one term at least, and each is a Term")

    def total(self, counts: Mapping[str, float]) -> Tensor:
        """The loss of this part, in the units of the whole batch."""
        return torch.stack([term.share(counts) for term in self.terms.values()]).sum()

    def __add__(self, other: "LossTerms") -> "LossTerms":
        return LossTerms(self.terms | other.terms, self.metrics | other.metrics, self.readings or other.readings)


@runtime_checkable
class Objective(Protocol):
    """A loss on a student's pass and, where it needs one, a teacher's."""

    @property
    def needs(self) -> Needs: ...

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms: ...


Build = Callable[[TrainConfig], Objective]
SomeBuild = TypeVar("SomeBuild", bound=Build)
BUILDERS: dict[str, Build] = {}  # of the objectives that come with phf, by name


def builds(name: str) -> Callable[[SomeBuild], SomeBuild]:
    """Marks the function that builds the objective of a name from the settings."""

    def mark(build: SomeBuild) -> SomeBuild:
        BUILDERS[name] = build
        return build

    return mark


def loss_temperature(config: TrainConfig) -> float:
    """The temperature of both distributions in a loss: by default that of the rollouts."""
    return config.divergence.temperature or config.rollout.temperature


@torch.no_grad()
def gated(batch: Batch, model: LanguageModel, probability: float | None, temperature: float) -> Batch:
    """The batch with the tokens that the student gives at most that probability; as it is where None is given.

    It takes a pass of its own: the loss is divided by the number of such tokens of the whole batch, which has to be
    known before the first micro-batch's backward pass.

    temperature: of the student's distribution, that of the rollouts.
    """
    if probability is None:
        return batch
    student = run_pass(model, batch.student, batch, ())
    logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids, temperature)
    return replace(batch, gate=Gate(logprobs <= math.log(probability), entropy))


def loss_terms(
    objective: Objective,
    model: LanguageModel,
    teacher: Teacher,
    base: Teacher | None,
    batch: Batch,
    done: Callable[[str], None] = lambda _phase: None,
) -> tuple[LossTerms, Pass]:
    """The loss terms of a batch, by the passes over the same tokens and the objective; and the student's pass.

    base: the model before any training, where the objective needs it.
    done: is told of the phases "teacher", passes without grad, and "student" when they are over.

    Raises:
        UserError: where the objective, which somebody may have added, returns something else.
    """
    needs = objective.needs
    layers = needs.blocks(len(model.blocks))
    read = teacher.run_pass(model, batch, layers) if needs.teacher else None  # p_T(. | x, r, y_<t), eq. 2
    if batch.further:
        others = [teacher.run_pass(model, replace(batch, teacher=reader), ()) for reader in batch.further]
        batch = replace(batch, readings=others)
    if base is not None:
        batch = replace(batch, base=base.run_pass(model, batch, ()))
    done("teacher")
    student = run_pass(model, batch.student, batch, layers, needs.lens)
    done("student")
    terms = objective.loss(student, read, batch)
    if not isinstance(terms, LossTerms):
        raise UserError(f"objective: its loss returned {type(terms).__name__}; it returns LossTerms")
    return terms, student


@dataclass(frozen=True)
class Sum:
    """Two objectives on the same passes, which the second one's needs cover: PHF is OPSD + alpha * flow (eq. 14)."""

    first: Objective
    second: Objective

    @property
    def needs(self) -> Needs:
        return self.second.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        return self.first.loss(student, teacher, batch) + self.second.loss(student, teacher, batch)


def token_divisors(batch: Batch, aggregate: Aggregate) -> tuple[Tensor, Per]:
    """What divides each token [N], and then their sum: a mean over all tokens, or over each completion's own first."""
    rows, _ = batch.tokens
    return (torch.ones_like(rows), "tokens") if aggregate == "token" else (batch.lengths[rows], "samples")


def require_whole_distribution(rollout: RolloutSettings, recipe: str) -> None:
    """Raises UserError for rollouts with top-p or top-k; `recipe` is the shipped one that has neither."""
    for name, value, off in (("top_p", rollout.top_p, 1), ("top_k", rollout.top_k, 0)):
        if value != off:
            raise UserError(
                f"rollout.{name}: {value} cuts the distribution whose log-probabilities this objective needs; "
                f"set rollout.{name}={off}, or put the recipe {recipe} after the other ones"
            )


def importance_weights(batch: Batch, logprobs: Tensor, cap: float) -> Tensor:
    """min(p / p_drawn, cap) of each token, [N], a constant.

    p_drawn is what the engine drew from: kernels and a precision of its own, and older weights with `rollout.ahead`.

    Args:
        logprobs: [N] under the policy that trains.
    """
    return truncated_weights(logprobs, batch.drawn_logprobs.to(logprobs.dtype), cap)
