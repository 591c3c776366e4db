"""Sums the measures of single rollouts, so that memory does not grow with their number."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from phfcli.core.analysis.readings.state_cosine import StateCosineSums
from phfcli.core.losses.hidden_states.rollout_measures import RolloutMeasures
from phfcli.core.names import ENERGIES, EnergyName
from phfcli.core.runs.flow_files import RolloutStates

_FEWEST = 5  # transitions to a token that is listed


class TokenEnergy(NamedTuple):
    """The transitions that lead to one token: how many, and their mean energy over all layers."""

    token: int
    text: str
    transitions: int
    energy: float


def _by_transition(measures: RolloutMeasures) -> dict[EnergyName, Tensor]:
    """[L, n] of each energy: what each transition adds to the mean."""
    return {
        "loss": (measures.direction + measures.geometry) / 2,
        "direction": measures.direction,
        "geometry": measures.geometry,
        "transition": measures.squares[0],
    }


@dataclass
class FlowTotals:
    """Of each measure the mean over a rollout's transitions, summed over rollouts, in float64."""

    depth: int
    energy: EnergyName
    parts: int
    count: int = 0
    energies: dict[EnergyName, Tensor] = field(default_factory=dict)  # [L] of each
    _tokens: dict[int, list[float]] = field(default_factory=dict)  # number and energy of the transitions to a token

    def __post_init__(self) -> None:
        self.energies = {kind: self._zeros() for kind in ENERGIES}
        self.state_cosine = StateCosineSums(self.depth)
        self._teacher_squares, self._adjacent = self._zeros(), torch.zeros(self.depth - 1, dtype=torch.float64)
        self._ranks, self._hsics = self._zeros(2), self._zeros(3)
        self._map, self._in_part = self._zeros(self.parts), torch.zeros(self.parts, dtype=torch.float64)

    def add(self, measures: RolloutMeasures, rollout: RolloutStates) -> None:
        values = {kind: value.double() for kind, value in _by_transition(measures).items()}
        self.count += 1
        for kind, value in values.items():
            self.energies[kind] += value.mean(1)
        self._teacher_squares += measures.squares[1].double().mean(1)
        self._adjacent += measures.adjacent.double()
        self._ranks += measures.rank.double()
        if measures.hsic is not None:
            self._hsics += measures.hsic.double()
        self.state_cosine.add(measures.cosine, rollout.positions, rollout.length)
        chosen = values[self.energy]  # [L, n]
        n = chosen.shape[1]
        part = ((torch.arange(n, dtype=torch.float64) + 0.5) / n * self.parts).long()
        self._map.index_add_(0, part, chosen.T)
        self._in_part.index_add_(0, part, torch.ones(n, dtype=torch.float64))
        # no tokens are known of old files
        for token, value in zip(rollout.tokens[1:], chosen.mean(0).tolist(), strict=False):
            found = self._tokens.setdefault(token, [0, 0.0])
            found[0] += 1
            found[1] += value

    def measures(self) -> Iterator[tuple[str, Tensor]]:
        count = max(self.count, 1)
        yield "cosine", 1 - self.energies["direction"] / count
        yield "direction", self.energies["direction"] / count
        yield "geometry", self.energies["geometry"] / count
        yield "adjacent", self._adjacent / count
        yield "transition_student", self.energies["transition"] / count
        yield "transition_teacher", self._teacher_squares / count
        yield "rank_student", self._ranks[0] / count
        yield "rank_teacher", self._ranks[1] / count
        yield "cka", self._hsics[0] / (self._hsics[1] * self._hsics[2]).sqrt()

    def map(self) -> Tensor:
        """[L, parts]: NaN in a part without a transition."""
        return (self._map / self._in_part[:, None]).T

    def token_energies(self, texts: dict[int, str]) -> Iterator[TokenEnergy]:
        for token, (transitions, energy) in self._tokens.items():
            if transitions >= _FEWEST:
                yield TokenEnergy(token, texts.get(token, ""), int(transitions), energy / transitions)

    def _zeros(self, *first: int) -> Tensor:
        return torch.zeros(*first, self.depth, dtype=torch.float64)
