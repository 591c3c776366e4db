"""Diagnosis and comparison from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from phfcli.api.arguments import checks_arguments
from phfcli.api.results import Evaluation
from phfcli.core.errors import interval, points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phfcli.api.results import Run
    from phfcli.core.analysis.compare import Comparison as Compared
    from phfcli.core.analysis.diagnose import LayerReport
    from phfcli.core.analysis.differences import PairedDifference, SeedDifference
    from phfcli.core.names import ViewName
    from phfcli.core.reporting.tables import View
    from phfcli.core.runs.flows import Flow


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

        from phfcli.core.reporting.tables import layer_records

        return pd.DataFrame(layer_records(self.reports))

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

    def plot(self, panel: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """The picture of `phf diagnose --plot`.

        Args:
            panel: one chart, such as "shares" or "position map", or "all"; by default the shares and, of several
                steps, the shares over training.
            ax: axes of your own, into which one chart is drawn.
        """
        from phfcli.core.reporting.figures import draw_panel, layers_figure

        if ax is None:
            return layers_figure(self.reports, panel)
        draw_panel(ax, self.reports, panel)
        return cast("Figure", ax.figure)

    def __repr__(self) -> str:
        layer, share = self.largest
        entropy = f"entropy {self.entropy:.3f} of {self.newest.max_entropy:.3f} nats"
        return f"Diagnosis({len(self.reports)} steps; layer {layer} has {100 * share:.1f} % of the energy, {entropy})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.steps().to_html(index=False)}"


@checks_arguments
def diagnose(
    runs: "Run | str | Path | Sequence[Run | str | Path]",
    energy: str = "loss",
    *,
    steps: Sequence[int] = (),
    parts: int = 16,
) -> Diagnosis:
    """Where the hidden flows of student and teacher differ, from the flows that a run saved with its checkpoints.

        report = phf.diagnose(run)
        report.entropy, report.largest, report.layers(), report.plot()

    Args:
        runs: a `Run`, or the path of a run, a checkpoint or a flow file, or several.
        energy: "loss" (the default), "direction", "geometry" or "transition".
        steps: only the flows of these steps.
        parts: the number of parts of a rollout in the map of energy along it.

    Raises:
        UserError: where there are no flows, or no rollout of them has a transition.
    """
    from phfcli.core.analysis.diagnose import diagnose_saved

    return Diagnosis(tuple(diagnose_saved(paths_of(runs), energy, list(steps), parts)))


@checks_arguments
def load_flow(path: str | Path) -> "Flow":
    """The hidden states of a flow file as tensors, for measures of your own.

        flow = phf.load_flow("runs/NAME/flows/step-000100.safetensors")
        student, teacher = flow.student.float(), flow.teacher.float()  # [layers, rollouts, positions, width]
        energies = phfcli.losses.layer_energies(student, teacher, flow.valid, "direction")

    Raises:
        UserError: for a file that is missing, damaged or no flow file.
    """
    from phfcli.core.runs.flows import load_flow as core

    return core(Path(path))


def paths_of(things: Any) -> list[Path]:
    """The paths of one run or of several."""
    several = isinstance(things, Sequence) and not isinstance(things, str)
    return [Path(getattr(thing, "folder", thing)) for thing in (things if several else [things])]


# pandas shows the first and last columns of a wide frame, so the important ones are there
_FIRST = ("bench", "a", "b", "difference", "low", "high", "p_value")
_LAST = ("problems", "unit", "gained", "lost")


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side, and each difference with its interval; fractions are 0..1.

    Attributes:
        core: the comparison, with every score.
        shown: the tables of the view.
    """

    core: "Compared"
    shown: "View"
    view: "ViewName" = "runs"

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each evaluation, or for each method where that is the view."""
        import pandas as pd

        return pd.DataFrame(self.shown.records)

    def pairs(self) -> "pd.DataFrame":
        """A row for each pair on each benchmark: `difference` is b - a, and `low` to `high` its interval.

        Further columns are p_value, stderr, unit and others.
        """
        import pandas as pd

        from phfcli.core.reporting.tables import pair_records

        frame = pd.DataFrame(pair_records(self.core.pairs))
        first, last = ([name for name in names if name in frame.columns] for names in (_FIRST, _LAST))
        return frame[[*first, *(name for name in frame.columns if name not in (*first, *last)), *last]]

    @property
    def notes(self) -> list[str]:
        """The settings in which the evaluations differ."""
        return self.core.notes

    def plot(self) -> "Figure":
        """The picture of `phf compare --plot`."""
        from phfcli.core.reporting.figures import view_figure

        return view_figure(self.view, self.core)

    @checks_arguments
    def write_samples(self, path: "str | Path") -> None:
        """Writes the page of `phf compare --samples`: two evaluations of one benchmark, side by side."""
        from phfcli.core.reporting.comparison_files import write_side_by_side

        write_side_by_side(Path(path), self.core)

    def __repr__(self) -> str:
        pairs = [f"{p.bench}: {p.b} - {p.a} {_interval(p.result)} over {p.measured.unit}" for p in self.core.pairs]
        return f"Comparison({'; '.join(pairs) or f'{len(self.core.results)} evaluations'})"

    def _repr_html_(self) -> str:
        pairs = self.pairs().to_html(index=False) if self.core.pairs else ""
        return f"<p>{escape(repr(self))}</p>{self.to_pandas().to_html(index=False)}{pairs}"


def _interval(result: "PairedDifference | SeedDifference") -> str:
    difference = f"{points(result.difference)} points"
    if result.low is None or result.high is None:
        return difference
    return f"{difference} ({interval(result.low, result.high)})"


@checks_arguments
def compare(
    evaluated: "Sequence[Run | Evaluation | str | Path] | Mapping[str, Run | Evaluation | str | Path]",
    bench: str | Sequence[str] = (),
    *,
    view: str = "runs",
    unequal: bool = False,
    unit: str | None = None,
) -> Comparison:
    """Compare evaluations: Average@n side by side, and each difference with its interval, paired by problem.

        difference = phf.compare([a, b])
        difference = phf.compare({"OPSD": a, "PHF": b}, bench="embedded")
        difference.pairs(), difference.to_pandas(), difference.plot()

    Args:
        evaluated: runs, evaluations, or the paths of runs, checkpoints or summary files; a mapping gives them names.
            Runs that differ in their seed alone are pooled.
        bench: only this benchmark, or these.
        view: "runs", "methods" (seeds pooled), "ablations" or "dynamics" (over the steps of a run).
        unequal: compare also where prompts or sampling differ.
        unit: "seeds" (would another training differ?) or "problems" (would these checkpoints, on other problems?); by
            default seeds where both sides have several.

    Raises:
        UserError: where something has not been evaluated, or was evaluated on other rows or under other settings.
    """
    from phfcli.core.analysis.compare import compare as core
    from phfcli.core.errors import UserError, one_of
    from phfcli.core.evaluation.saved_evaluations import load_evaluations
    from phfcli.core.names import UNITS, VIEWS
    from phfcli.core.reporting.tables import view_of

    view_name = one_of("view", view, VIEWS)
    over = None if unit is None else one_of("unit", unit, UNITS)
    if not evaluated:
        raise UserError("compare: give the evaluations as one list: phf.compare([a, b])")
    paths = named_paths(evaluated)
    all_steps = view_name == "dynamics"
    benches = [bench] if isinstance(bench, str) else list(bench)
    comparison = core(load_evaluations(paths, benches, all_steps=all_steps), unequal, not all_steps, over)
    return Comparison(comparison, view_of(view_name, comparison), view_name)


def named_paths(things: "Sequence[Any] | Mapping[str, Any]") -> list[str]:
    """The paths of runs and evaluations as a command line has them: PATH, or NAME=PATH of a mapping."""
    named = things.items() if isinstance(things, Mapping) else [("", thing) for thing in things]
    return [f"{name}={path}" if name else path for name, thing in named for path in _paths(thing)]


def _paths(thing: "Run | Evaluation | str | Path") -> list[str]:
    if isinstance(thing, Evaluation):
        return [str(summary["folder"]) for summary in thing.summaries]
    return [str(getattr(thing, "folder", thing))]
