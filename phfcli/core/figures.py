"""Pictures in files: panels put together, drawn by matplotlib without a screen."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core import panels, score_panels
from phfcli.core.bridge_fit import BridgeReport
from phfcli.core.compare import Comparison
from phfcli.core.diagnose import LayerReport
from phfcli.core.names import ViewName
from phfcli.core.views import trajectories

Panel = Callable[[Axes], None]

_COLUMNS = 3
_SIZE = (4.9, 3.7)  # of a panel, in inches


def layer_panels(reports: Sequence[LayerReport]) -> dict[str, Panel]:
    """What is drawn of the flows of one model, oldest first; several steps add how they changed."""
    newest = reports[-1]
    over_steps: dict[str, Panel] = {
        "share map": lambda axes: panels.share_map(axes, reports),
        "entropies": lambda axes: panels.entropies(axes, reports),
    }
    return {
        "shares": lambda axes: panels.shares(axes, newest),
        "beside the paper": lambda axes: panels.beside_paper(axes, newest),
        **(over_steps if len(reports) > 1 else {}),
        "position map": lambda axes: panels.position_map(axes, newest),
        "terms": lambda axes: panels.terms(axes, newest),
        "agreement": lambda axes: panels.agreement(axes, newest),
        "ranks": lambda axes: panels.ranks(axes, newest),
    }


def draw_layers(reports: Sequence[LayerReport], path: Path) -> None:
    """All panels of a diagnosis as one picture."""
    draw_panels(list(layer_panels(reports).values()), path, columns=_COLUMNS if len(reports) == 1 else 4)


def draw_panels(drawn: Sequence[Panel], path: Path, columns: int = _COLUMNS, size: tuple[float, float] = _SIZE) -> None:
    """Panels side by side, in rows of so many."""
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, drawn, strict=False):
        panel(axes)
    for axes in grid[len(drawn) :]:
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def view_panels(name: ViewName, comparison: Comparison) -> list[Panel]:
    """What is drawn of a view of a comparison."""
    if name == "ablations":
        return [lambda axes: score_panels.variants(axes, comparison)]
    if name == "dynamics":
        points = trajectories(comparison)
        places = [(model, bench) for model in comparison.models for bench in comparison.benches]
        return [_trajectory(points, model, bench, len(places) > 1) for model, bench in places]
    drawn = [_scores(comparison, model) for model in comparison.models]
    return [*drawn, lambda axes: score_panels.differences(axes, comparison.pairs)] if comparison.pairs else drawn


def draw_view(name: ViewName, comparison: Comparison, path: Path) -> None:
    """A view as one picture."""
    tallest = len(comparison.pairs) if name in ("runs", "methods") else len(comparison.arms)
    draw_panels(view_panels(name, comparison), path, size=(6, max(3.7, 0.45 * tallest + 1)))


def _scores(comparison: Comparison, model: str) -> Panel:
    def draw(axes: Axes) -> None:
        score_panels.scores(axes, comparison, model)
        if len(comparison.models) > 1:
            axes.set_xlabel(model)

    return draw


def _trajectory(points: Sequence[score_panels.Point], model: str, bench: str, named: bool) -> Panel:
    def draw(axes: Axes) -> None:
        score_panels.trajectory(axes, points, model, bench)
        if named:
            axes.set_xlabel(f"training step: {model}, {bench}")

    return draw


def draw_bridge(report: BridgeReport, path: Path) -> None:
    """How well a bridge's two sides agree, by rank."""
    draw_panels([lambda axes: panels.bridge(axes, report)], path)
