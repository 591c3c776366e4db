"""Objectives by name: each says what it needs and how its terms add up; the loop never asks which it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from phfcli.core.config import DivergenceSettings, TrainConfig
from phfcli.core.losses.flow import Local, flow_loss, flow_terms, layer_losses
from phfcli.core.losses.fused import fused_divergence_stats
from phfcli.core.losses.states import pointwise_loss
from phfcli.core.passes import Batch, Pass


@dataclass(frozen=True)
class Needs:
    """What the loop has to prepare.

    Attributes:
        completions: rollouts per problem; 0 is offline, on the reference itself.
        teacher: a second pass without grad.
        privileged: that pass reads the prompt that contains the reference.
        reward: graded completions; each sample then knows its reward and those of its problem's other completions.
        layers: blocks whose states are wanted, 1 is the first; None is all of them, () is none.
        positions: at most so many states of each completion.
    """

    completions: int = 1
    teacher: bool = True
    privileged: bool = True
    reward: bool = False
    layers: tuple[int, ...] | None = ()
    positions: int = 128

    @property
    def group_size(self) -> int:
        """Samples of each problem in a step; an offline objective has its reference."""
        return max(1, self.completions)


@dataclass(frozen=True)
class Term:
    """A sum over a part of the batch; the loop divides it by the count, named `per`, of the whole batch."""

    total: Tensor
    per: Literal["tokens", "samples", "flows"]
    weight: float = 1.0


@dataclass(frozen=True)
class LossTerms:
    """The terms of a loss, and detached metrics as (sum, count) pairs."""

    terms: dict[str, Term]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def total(self, counts: dict[str, int]) -> Tensor:
        """The loss of this part, in the units of the whole batch."""
        parts = [term.weight * term.total / max(counts[term.per], 1) for term in self.terms.values()]
        return torch.stack(parts).sum()

    def __add__(self, other: "LossTerms") -> "LossTerms":
        return LossTerms(self.terms | other.terms, self.metrics | other.metrics)


class Objective(Protocol):
    """A loss on a student's pass and, where it needs one, a teacher's."""

    @property
    def needs(self) -> Needs: ...

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms: ...


@dataclass(frozen=True)
class OutputDivergence:
    """OPSD (eq. 3): the divergence of the two next-token distributions on the student's own tokens."""

    settings: DivergenceSettings
    temperature: float
    needs: Needs = Needs()

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        weights = torch.ones(len(student.hidden), device=student.hidden.device)
        total, clip = fused_divergence_stats(
            student.hidden,
            teacher.hidden,
            student.head,
            weights,
            kind=self.settings.kind,
            beta=self.settings.beta,
            temperature=self.temperature,
            clip=self.settings.clip,
            clip_mode=self.settings.clip_mode,
        )
        tokens = weights.sum()
        metrics = {
            "divergence": (total.detach(), tokens),
            "clip_share": (clip.raw - clip.clipped, clip.raw),  # of the divergence, that the clip takes
            "clipped_entries": (clip.entries_clipped, clip.entries),
            "clipped_tokens": (clip.tokens_clipped, tokens),
        }
        return LossTerms({"divergence": Term(total, per="tokens")}, metrics)


@dataclass(frozen=True)
class HiddenFlow:
    """The flow of hidden states along the rollout (eqs. 4 to 13), in the paper's variants."""

    alpha: float
    needs: Needs
    adjacent: bool = True
    local: Local = "both"

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        terms = flow_terms(student.states, teacher.states, batch.valid)
        loss = flow_loss(terms, adjacent=self.adjacent, local=self.local)
        count = terms.samples
        layer_energy = layer_losses(terms).detach()  # eq. 8, [L]
        metrics = {
            "flow": (loss.detach() * count, count),
            "flow_direction": (terms.direction.detach().mean() * count, count),
            "flow_geometry": (terms.geometry.detach().mean() * count, count),
            "flow_adjacent": (terms.adjacent.detach().sum() / max(len(terms.adjacent), 1) * count, count),
            "layer_energy": (layer_energy * count, count),
        }
        return LossTerms({"flow": Term(loss * count, per="flows", weight=self.alpha)}, metrics)


@dataclass(frozen=True)
class PointwiseStates:
    """The control: the same states at the same positions, matched point by point."""

    alpha: float
    needs: Needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        loss, count = pointwise_loss(student.states, teacher.states, batch.valid, normalized=True)
        return LossTerms(
            {"pointwise": Term(loss * count, per="samples", weight=self.alpha)},
            {"pointwise": (loss.detach() * count, count)},
        )


@dataclass(frozen=True)
class Sum:
    """Two objectives on the same passes: PHF is OPSD + alpha * flow (eq. 14)."""

    first: Objective
    second: Objective

    @property
    def needs(self) -> Needs:
        return self.second.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        return self.first.loss(student, teacher, batch) + self.second.loss(student, teacher, batch)


def build_objective(config: TrainConfig) -> Objective:
    """The objective that config.objective names."""
    return _BUILDERS[config.objective](config)


def _opsd(config: TrainConfig) -> Objective:
    return OutputDivergence(config.divergence, config.divergence.temperature or config.rollout.temperature)


def _states(config: TrainConfig) -> Needs:
    return Needs(layers=config.flow.layers, positions=config.flow.positions)


def _flow(adjacent: bool, local: Local = "both") -> Callable[[TrainConfig], Objective]:
    return lambda config: Sum(_opsd(config), HiddenFlow(config.flow.alpha, _states(config), adjacent, local))


_BUILDERS: dict[str, Callable[[TrainConfig], Objective]] = {
    "opsd": _opsd,
    "phf": _flow(adjacent=True),
    "phf-local": _flow(adjacent=False),
    "direction": _flow(adjacent=False, local="direction"),
    "geometry": _flow(adjacent=False, local="geometry"),
    "pointwise": lambda config: Sum(_opsd(config), PointwiseStates(config.flow.alpha, _states(config))),
}
