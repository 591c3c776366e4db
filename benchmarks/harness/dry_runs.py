"""The memory that `phf train --dry-run` predicts for a step, and the memory that such a run takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.processes import metrics_of, run_phf

STEPS = 2


@dataclass(frozen=True)
class Peaks:
    """Bytes of a whole process at its peak.

    Attributes:
        parts: of the prediction, by name.
        phase: of a step, where the peak is predicted.
    """

    parts: dict[str, int]
    phase: str
    measured: int

    @property
    def predicted(self) -> int:
        return self.parts["total"]


def compare_peaks(model: Path, run: Path, settings: Sequence[str], threads: int) -> Peaks:
    """Plans and then runs some steps of `phf train` on the embedded problems with two rollouts a step."""
    common = ("rollout.engine=transformers", "batch_size=2", "micro_batch_size=2", "flow.saved_samples=0")
    options = [part for setting in (*common, *settings) for part in ("--set", setting)]
    command = ["train", "--model", str(model), "--data", "embedded", "--steps", str(STEPS), *options]
    plan = json.loads(run_phf([*command, "--dry-run", "--json"], threads))
    run_phf([*command, "--output-dir", str(run), "--quiet"], threads)
    measured = max(step["peak_memory_bytes"] for step in metrics_of(run))
    return Peaks(plan["memory_bytes"], plan["peak_phase"], measured)
