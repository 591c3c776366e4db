"""Diagnosis of hidden flows from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import tells_arguments

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from phfcli.api.run import Run
    from phfcli.core.analysis.diagnose import LayerReport


@dataclass(frozen=True)
class Diagnosis:
    """Where teacher and student differ: over the depth of the model, along the rollout, over training.

    Attributes:
        reports: one for each saved step, oldest first.
    """

    reports: "tuple[LayerReport, ...]"

    @property
    def newest(self) -> "LayerReport":
        return self.reports[-1]

    @property
    def entropy(self) -> float:
        """The entropy of the newest step's shares, in nats; the logarithm of the number of layers at most."""
        return self.newest.entropy

    @property
    def largest(self) -> tuple[int, float]:
        """The layer with the largest share of the energy at the newest step, 1 is the first, and that share."""
        return self.newest.largest

    def layers(self) -> "pd.DataFrame":
        """A row for each step and layer: energy, share, other energies, measures, energy by part of a rollout."""
        import pandas as pd

        from phfcli.core.reporting.table_export import layer_table

        header, *rows = layer_table(self.reports)
        return pd.DataFrame([list(row) for row in rows], columns=[str(name) for name in header])

    def to_pandas(self) -> "pd.DataFrame":
        """The same as `layers()`."""
        return self.layers()

    def steps(self) -> "pd.DataFrame":
        """A row for each step: entropy, its maximum, the layer with the largest share, that share."""
        import pandas as pd

        rows = [
            {"step": r.step, "entropy": r.entropy, "max_entropy": r.max_entropy, "layer": r.largest[0]}
            | {"share": r.largest[1], "rollouts": r.samples}
            for r in self.reports
        ]
        return pd.DataFrame(rows)

    def plot(self) -> "Figure":
        """The pictures of `phf diagnose --plot`."""
        from phfcli.core.reporting.figures import layers_figure

        return layers_figure(self.reports)

    def __repr__(self) -> str:
        layer, share = self.largest
        entropy = f"entropy {self.entropy:.3f} of {self.newest.max_entropy:.3f} nats"
        return f"Diagnosis({len(self.reports)} steps; layer {layer} has {100 * share:.1f} % of the energy, {entropy})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.steps().to_html(index=False)}"


@tells_arguments
def diagnose(
    runs: "Run | str | Path | Sequence[Run | str | Path]",
    energy: str = "loss",
    *,
    steps: Sequence[int] = (),
    parts: int = 16,
) -> Diagnosis:
    """What the hidden flow did, from the flows that a run saved with its checkpoints.

        report = phf.diagnose(run)
        report.entropy, report.largest, report.layers(), report.plot()

    Args:
        runs: a `Run`, or the path of a run, a checkpoint or a flow file, or several.
        energy: "loss" (the default), "direction", "geometry" or "transition".
        steps: only the flows of these steps.
        parts: of a rollout, in the map of energy along it.

    Raises:
        UserError: where there are no flows, or no rollout of them has a transition.
    """
    from phfcli.core.analysis.diagnose import diagnose_saved

    return Diagnosis(tuple(diagnose_saved(paths_of(runs), energy, list(steps), parts)))


def paths_of(things: Any) -> list[Path]:
    """The folder or path of each of some runs, or of the only one."""
    several = isinstance(things, Sequence) and not isinstance(things, str)
    return [Path(getattr(thing, "folder", thing)) for thing in (things if several else [things])]
