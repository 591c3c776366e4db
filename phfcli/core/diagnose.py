"""Which layers carried the hidden flow: the share of each layer's energy, and its entropy (PHF, all-layer spread)."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.flows import load_flow
from phfcli.core.losses.energy import entropy, layer_energies, layer_energy_share
from phfcli.core.names import EnergyName
from phfcli.core.resources import is_run


@dataclass(frozen=True)
class LayerReport:
    """The spread of one flow's energy over depth."""

    step: int | None
    energy: EnergyName
    samples: int
    layers: list[int]
    energies: list[float]
    share: list[float]
    entropy: float  # nats

    @property
    def max_entropy(self) -> float:
        return math.log(len(self.share))

    @property
    def largest(self) -> tuple[int, float]:
        """The layer that carries most, and its share."""
        share = max(self.share)
        return self.layers[self.share.index(share)], share

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
        }


def flow_files(path: Path) -> list[Path]:
    """The flow files of a run, a folder of them, or one. Raises UserError where there are none."""
    if path.is_file():
        return [path]
    folder = path / "flows" if is_run(path) else path
    if not path.exists():
        raise UserError(f"{path}: no such run or flow file")
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{path}: no saved flows; train with flow.saved_samples above 0")
    return files


def diagnose(path: Path, energy: EnergyName) -> LayerReport:
    """The layer report of one flow file.

    Raises:
        UserError: for a file that is not a flow, or in which no rollout has a transition.
    """
    flow = load_flow(path)
    energies = layer_energies(flow.student, flow.teacher, flow.valid, kind=energy)
    try:
        share = layer_energy_share(energies)
    except ValueError as error:
        raise UserError(f"{path}: no share of {energy} energy: {error}") from None
    step = re.search(r"step-(\d+)", path.stem)
    return LayerReport(
        step=int(step[1]) if step else None,
        energy=energy,
        samples=int((flow.valid.sum(1) > 1).sum()),
        layers=flow.layers.tolist(),
        energies=energies.tolist(),
        share=share.tolist(),
        entropy=float(entropy(share)),
    )
