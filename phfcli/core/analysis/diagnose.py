"""Diagnoses a hidden flow: its energy over depth, along the rollout and, from several reports, over training.

Shapes: L layers, m selected positions, n = m - 1 transitions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phfcli.core.errors import UserError, one_of
from phfcli.core.evaluation.saved_evaluations import distinct_names
from phfcli.core.losses.flow import RolloutMeasures, entropy, layer_energy_share, measure_rollout
from phfcli.core.names import ENERGIES, EnergyName
from phfcli.core.runs.flows import RolloutStates, open_flow
from phfcli.core.runs.folder import is_run, step_name

PARTS = 16  # parts of a rollout in the position map
# (model, layers, largest share, entropy in nats) from "All-layer spread" of the PHF paper, at step 100
PAPER = (("Qwen3-1.7B", 28, 0.065, 3.17), ("Qwen3-4B", 36, 0.051, 3.38), ("Qwen3-8B", 36, 0.048, 3.40))
_KS = 2 ** torch.arange(31)  # the numbers k of first and last tokens
_FEWEST = 5  # transitions to a token, for it to be listed


@dataclass(frozen=True)
class StateCosine:
    """The cosine of student's and teacher's states over the first and over the last k tokens, by k and layer.

    The last k is the length of the longest rollout, at which both ends are the whole rollout.
    """

    tokens: list[int]  # the k: 1, 2, 4, ..., and the length of the longest rollout
    first: list[list[float | None]]  # [len(tokens)][L]; None if no rollout has a selected position there
    last: list[list[float | None]]

    def ends(self) -> Iterator[tuple[str, list[list[float | None]]]]:
        """Yields (name, cosines) of both ends."""
        yield "first", self.first
        yield "last", self.last

    def as_json(self) -> dict[str, Any]:
        return {"tokens": self.tokens, **dict(self.ends())}


class TokenEnergy(NamedTuple):
    """The transitions that lead to one token: their number, and their mean energy over layers."""

    token: int
    text: str
    transitions: int
    energy: float


@dataclass(frozen=True)
class LayerReport:
    """The measures of one flow. Lists by layer are in the order of `layers`; None is an unknown value."""

    run: str  # its name, where several runs are diagnosed together; else empty
    step: int | None
    energy: EnergyName
    samples: int
    layers: list[int]
    energies: list[float]
    share: list[float]
    entropy: float  # nats
    all_energies: dict[EnergyName, list[float]]
    measures: dict[str, list[float | None]]  # name -> by layer; `adjacent` relates a layer and the next one
    position_map: list[list[float | None]]  # [layer][part of the rollout]: mean energy of its transitions
    state_cosine: StateCosine
    tokens: list[TokenEnergy]  # in the order of falling energy; empty for files of version 1
    lens_entropy: list[float] | None  # by layer, in nats; only files of `phf collect` hold it

    @property
    def max_entropy(self) -> float:
        return math.log(len(self.share))

    @property
    def largest(self) -> tuple[int, float]:
        """The layer with the largest share of the energy, and that share."""
        share = max(self.share)
        return self.layers[self.share.index(share)], share

    @property
    def largest_part(self) -> int:
        """The index of the part of the rollout with the most energy, summed over layers."""
        totals = [sum(row[part] or 0 for row in self.position_map) for part in range(len(self.position_map[0]))]
        return totals.index(max(totals))

    def distance(self, other: "LayerReport") -> float:
        """The total variation distance between the energy shares of two reports, 0..1."""
        return sum(abs(a - b) for a, b in zip(self.share, other.share, strict=True)) / 2

    def as_json(self) -> dict[str, Any]:
        layer, share = self.largest
        return {
            "run": self.run,
            "step": self.step,
            "energy": self.energy,
            "samples": self.samples,
            "layers": self.layers,
            "energies": self.energies,
            "share": self.share,
            "entropy": self.entropy,
            "max_entropy": self.max_entropy,
            "largest": {"layer": layer, "share": share},
            "all_energies": self.all_energies,
            "measures": self.measures,
            "position_map": self.position_map,
            "largest_part": {"part": self.largest_part, "parts": len(self.position_map[0])},
            "state_cosine": self.state_cosine.as_json(),
            "lens_entropy": self.lens_entropy,
            "tokens": [token._asdict() for token in self.tokens],
        }


def diagnose_saved(paths: Sequence[Path], energy: str, steps: list[int], parts: int = PARTS) -> list[LayerReport]:
    """The reports of the flows in runs, checkpoints, folders or files, of each run in the order of their steps.

    Files and checkpoints belong to the run of their folder.

    Args:
        energy: the name of a kind of energy.
        steps: the steps to report; empty means all.

    Raises:
        UserError: there are no flows, the energy is unknown, or the models have different depth.
    """
    kind = one_of("energy", energy, ENERGIES)
    files = select_steps([file for path in paths for file in flow_files(path)], steps)
    runs = list(dict.fromkeys(map(_run_of, files)))
    names = dict(zip(runs, distinct_names([(run.name, run, None) for run in runs]), strict=True))
    files.sort(key=lambda file: runs.index(_run_of(file)))
    named = [(file, names[_run_of(file)] if len(runs) > 1 else "") for file in files]
    return in_order([replace(diagnose_file(file, kind, parts), run=name) for file, name in named])


def _run_of(file: Path) -> Path:
    """The folder of a flow's run, or the file itself, which is then a run of its own."""
    folder = file.resolve().parent
    return folder.parent if folder.name == "flows" else file.resolve().with_suffix("")


def by_run(reports: Sequence[LayerReport]) -> list[list[LayerReport]]:
    """The reports of each run."""
    names = dict.fromkeys(report.run for report in reports)
    return [[report for report in reports if report.run == name] for name in names]


def diagnose_file(path: Path, energy: EnergyName, parts: int = PARTS) -> LayerReport:
    """The report of a flow file.

    Args:
        energy: the kind of energy of the shares, the position map and the tokens.
        parts: the number of parts of a rollout in the position map.

    Raises:
        UserError: no flow file, no rollout with a transition, or hidden states that are not finite.
    """
    source = open_flow(path)
    totals = FlowTotals(len(source.layers), energy, parts)
    with torch.inference_mode():
        for rollout in source.rollout_states():
            totals.add(measure_rollout(rollout.student, rollout.teacher), rollout)
    try:
        share = layer_energy_share(totals.energies[energy] / max(totals.count, 1))
    except ValueError as error:
        raise UserError(f"{path}: no share of {energy} energy: {error}") from None
    energies = {kind: (total / totals.count).tolist() for kind, total in totals.energies.items()}
    return LayerReport(
        run="",
        step=source.step,
        energy=energy,
        samples=totals.count,
        layers=source.layers,
        energies=energies[energy],
        share=share.tolist(),
        entropy=float(entropy(share)),
        all_energies=energies,
        measures={name: _known(values) for name, values in totals.measures()},
        position_map=[_known(row) for row in totals.map()],
        state_cosine=totals.state_cosine.result(),
        tokens=sorted(totals.token_energies(source.texts), key=lambda token: -token.energy),
        lens_entropy=source.lens_entropy,
    )


def flow_files(path: Path) -> list[Path]:
    """The flow files of a run, a checkpoint or a folder, or the given file. Raises UserError if there are none."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint or flow file")
    if (path / "trainer.json").is_file():
        path = path.resolve()
        file = path.parents[1] / "flows" / f"{path.name}.safetensors"
        if not file.is_file():
            raise UserError(f"{path}: no flow was saved with this checkpoint; make one with `phf collect {path}`")
        return [file]
    files = sorted((path / "flows" if is_run(path) else path).glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{path}: no saved flows; train with flow.saved_samples above 0, or make one with `phf collect {path}`"
        )
    return files


def select_steps(files: list[Path], steps: list[int]) -> list[Path]:
    """The files of these steps, or all files if `steps` is empty. Raises UserError for a step without a file."""
    if not steps:
        return files
    named = list(dict.fromkeys(file.stem for file in files))  # several runs may have a file of the same step
    missing = [step for step in steps if step_name(step) not in named]
    if missing:
        raise UserError(f"steps: no flow was saved at step {missing[0]}; there are {', '.join(named)}")
    wanted = {step_name(step) for step in steps}
    return [file for file in files if file.stem in wanted]


def in_order(reports: list[LayerReport]) -> list[LayerReport]:
    """The reports by run, each in the order of steps. Raises UserError for flows of models of different depth."""
    if len({tuple(report.layers) for report in reports}) > 1:
        raise UserError("these flows are of models of different depth; diagnose them one by one")
    runs = list(dict.fromkeys(report.run for report in reports))
    return sorted(reports, key=lambda report: (runs.index(report.run), report.step or 0))


def _known(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


@dataclass
class FlowTotals:
    """Sums over rollouts of each measure's mean over a rollout's transitions, in float64."""

    depth: int
    energy: EnergyName
    parts: int
    count: int = 0
    energies: dict[EnergyName, Tensor] = field(default_factory=dict)  # kind -> [L]
    _tokens: dict[int, list[float]] = field(default_factory=dict)  # token -> number and energy of the transitions to it

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
        # files of version 1 hold no tokens, so the two lengths may differ
        for token, value in zip(rollout.tokens[1:], chosen.mean(0).tolist(), strict=False):
            entry = self._tokens.setdefault(token, [0, 0.0])
            entry[0] += 1
            entry[1] += value

    def measures(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, value by layer) of each measure, a mean over rollouts."""
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
        """The mean energy by layer and part of the rollout, [L, parts]; NaN in a part without a transition."""
        return (self._map / self._in_part[:, None]).T

    def token_energies(self, texts: dict[int, str]) -> Iterator[TokenEnergy]:
        for token, (transitions, energy) in self._tokens.items():
            if transitions >= _FEWEST:
                yield TokenEnergy(token, texts.get(token, ""), int(transitions), energy / transitions)

    def _zeros(self, *first: int) -> Tensor:
        return torch.zeros(*first, self.depth, dtype=torch.float64)


def _by_transition(measures: RolloutMeasures) -> dict[EnergyName, Tensor]:
    """Kind of energy -> energy of each transition, [L, n]; the mean over transitions is the layer's energy."""
    return {
        "loss": (measures.direction + measures.geometry) / 2,
        "direction": measures.direction,
        "geometry": measures.geometry,
        "transition": measures.squares[0],
    }


@dataclass
class StateCosineSums:
    """Sums of cosines over rollouts, in float64, from which `StateCosine` is made."""

    depth: int
    longest: int = 0
    _sums: Tensor = field(init=False)  # [2, len(_KS), L]: first tokens, last tokens
    _rollouts: Tensor = field(init=False)  # [2, len(_KS), 1]: the number of rollouts with a position there

    def __post_init__(self) -> None:
        self._sums = torch.zeros(2, len(_KS), self.depth, dtype=torch.float64)
        self._rollouts = torch.zeros(2, len(_KS), 1, dtype=torch.float64)

    def add(self, cosine: Tensor, positions: list[int], length: int) -> None:
        """Adds the cosines [L, m] at the selected positions of a rollout of `length` tokens."""
        offsets = torch.tensor(positions)
        within = torch.stack([offsets < _KS[:, None], offsets >= length - _KS[:, None]]).double()  # [2, len(_KS), m]
        counts = within.sum(-1, keepdim=True)
        self._sums += within @ cosine.double().T.cpu() / counts.clamp(min=1)
        self._rollouts += counts > 0
        self.longest = max(self.longest, length)

    def result(self) -> StateCosine:
        shorter = int((self.longest > _KS).sum())  # the number of k below the length of the longest rollout
        means = (self._sums / self._rollouts)[:, : shorter + 1].tolist()
        first, last = ([[None if math.isnan(value) else value for value in row] for row in end] for end in means)
        return StateCosine([*_KS[:shorter].tolist(), self.longest], first, last)
