"""Diagnoses a hidden flow: its energy over depth, along the rollout and, from several reports, over training.

Rollouts are measured one at a time, so that memory does not grow with their number. Of each measure the mean over a
rollout's transitions is taken first, then the mean over rollouts, as in the loss.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from phfcli.core.analysis.flow_totals import FlowTotals, TokenEnergy
from phfcli.core.analysis.readings.model_readings import ModelReadings
from phfcli.core.analysis.readings.state_cosine import StateCosine
from phfcli.core.errors import UserError, one_of
from phfcli.core.losses.hidden_states.layer_energy import entropy, layer_energy_share
from phfcli.core.losses.hidden_states.rollout_measures import measure_rollout
from phfcli.core.names import ENERGIES, EnergyName
from phfcli.core.runs.flow_files import RolloutStates, open_flow
from phfcli.core.runs.layout import is_run, step_name

PARTS = 16  # of a rollout, in the position map

# PHF, "All-layer spread": at step 100; the paper does not say what its energy is
PAPER = (("Qwen3-1.7B", 28, 0.065, 3.17), ("Qwen3-4B", 36, 0.051, 3.38), ("Qwen3-8B", 36, 0.048, 3.40))


class FlowSource(Protocol):
    """Where rollouts come from: a flow file, or a model that reads them now."""

    @property
    def path(self) -> Path: ...  # that errors name
    @property
    def step(self) -> int | None: ...
    @property
    def layers(self) -> list[int]: ...
    @property
    def texts(self) -> dict[int, str]: ...  # of the tokens of the rollouts so far
    def rollout_states(self) -> Iterator[RolloutStates]: ...


@dataclass(frozen=True)
class LayerReport:
    """The measures of one flow. Lists by layer are in the order of `layers`; None is a value that is not known."""

    step: int | None
    energy: EnergyName
    samples: int
    layers: list[int]
    energies: list[float]
    share: list[float]
    entropy: float  # nats
    all_energies: dict[EnergyName, list[float]]
    measures: dict[str, list[float | None]]  # by layer; `adjacent` is of a layer and the next one
    position_map: list[list[float | None]]  # [layer][part of the rollout]: mean energy of its transitions
    state_cosine: StateCosine
    tokens: list[TokenEnergy]  # by falling energy; empty where the flow file does not know its tokens
    model: ModelReadings | None = None  # what only a model says

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
        """The part of the rollout, 0 is the first, in which the transitions differ most, over all layers."""
        totals = [sum(row[part] or 0 for row in self.position_map) for part in range(len(self.position_map[0]))]
        return totals.index(max(totals))

    def distance(self, other: "LayerReport") -> float:
        """The total variation distance between the shares of two reports, 0..1."""
        return sum(abs(a - b) for a, b in zip(self.share, other.share, strict=True)) / 2

    def as_json(self) -> dict[str, Any]:
        layer, share = self.largest
        return {
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
            "model": None if self.model is None else self.model.as_json(),
            "tokens": [token._asdict() for token in self.tokens],
        }


def flow_files(path: Path) -> list[Path]:
    """The flow files of a run, of a checkpoint, of a folder, or the one. Raises UserError where there are none."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint or flow file")
    if (path / "trainer.json").is_file():
        path = path.resolve()
        file = path.parents[1] / "flows" / f"{path.name}.safetensors"
        if not file.is_file():
            raise UserError(
                f"{path}: no flow was saved with this checkpoint; read one with `phf diagnose --collect {path}`"
            )
        return [file]
    files = sorted((path / "flows" if is_run(path) else path).glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{path}: no saved flows; train with flow.saved_samples above 0, or read one with "
            f"`phf diagnose --collect {path}`"
        )
    return files


def of_steps(files: list[Path], steps: list[int]) -> list[Path]:
    """Only the files of these steps, or all where none is named. Raises UserError for a step that was not saved."""
    if not steps:
        return files
    named = list(dict.fromkeys(file.stem for file in files))  # of several runs each has its own file of a step
    missing = [step for step in steps if step_name(step) not in named]
    if missing:
        raise UserError(f"--steps: no flow was saved at step {missing[0]}; there are {', '.join(named)}")
    wanted = {step_name(step) for step in steps}
    return [file for file in files if file.stem in wanted]


def comparable(reports: list[LayerReport]) -> list[LayerReport]:
    """The reports by step, those without one as given. Raises UserError where they are of models of different depth."""
    if len({tuple(report.layers) for report in reports}) > 1:
        raise UserError("these flows are of models of different depth; diagnose them one by one")
    return sorted(reports, key=lambda report: report.step or 0)


def diagnose(source: FlowSource, energy: EnergyName, parts: int = PARTS) -> LayerReport:
    """The report of a flow.

    Raises:
        UserError: where no rollout has a transition, or the states are not finite.
    """
    totals = FlowTotals(len(source.layers), energy, parts)
    with torch.inference_mode():
        for rollout in source.rollout_states():
            if not (rollout.student.isfinite().all() and rollout.teacher.isfinite().all()):
                raise UserError(f"{source.path}: states that are not finite, so nothing can be said of them")
            totals.add(measure_rollout(rollout.student, rollout.teacher), rollout)
    try:
        share = layer_energy_share(totals.energies[energy] / max(totals.count, 1))
    except ValueError as error:
        raise UserError(f"{source.path}: no share of {energy} energy: {error}") from None
    energies = {kind: (total / totals.count).tolist() for kind, total in totals.energies.items()}
    return LayerReport(
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
    )


def diagnose_file(path: Path, energy: EnergyName, parts: int = PARTS) -> LayerReport:
    """The report of a flow file. Raises UserError for another kind of file, or one without a transition."""
    return diagnose(open_flow(path), energy, parts)


def diagnose_saved(paths: Sequence[Path], energy: str, steps: list[int], parts: int = PARTS) -> list[LayerReport]:
    """The reports of the flows saved in runs, checkpoints, folders or files, by step; `steps` names the only ones.

    Raises:
        UserError: where there are none, for an unknown energy, and for models of different depth.
    """
    kind = one_of("energy", energy, ENERGIES)
    files = of_steps([file for path in paths for file in flow_files(path)], steps)
    return comparable([diagnose_file(file, kind, parts) for file in files])


def _known(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
