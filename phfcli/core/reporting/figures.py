"""Draws pictures into files: several charts side by side, by matplotlib without a screen."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core.analysis.bridge import BridgeReport
from phfcli.core.analysis.compare import SUITE, Comparison, Pair
from phfcli.core.analysis.diagnose import LayerReport
from phfcli.core.names import ViewName
from phfcli.core.reporting import flow_charts, score_charts
from phfcli.core.reporting import flow_charts as reading_charts
from phfcli.core.reporting.tables import trajectories

Panel = Callable[[Axes], None]

_COLUMNS = 3
_MOST_PAIRS = 24  # differences in one panel
_SIZE = (4.9, 3.7)  # of a panel, in inches
_DPI = 130


def layer_panels(reports: Sequence[LayerReport]) -> dict[str, Panel]:
    """What is drawn of the flows of one model, oldest first; several steps add how they changed."""
    newest = reports[-1]
    over_steps: dict[str, Panel] = {
        "share map": lambda axes: flow_charts.share_map(axes, reports),
        "entropies": lambda axes: flow_charts.entropies(axes, reports),
    }
    lens: dict[str, Panel] = {"lens entropy": lambda axes: reading_charts.lens_entropy(axes, newest)}
    return {
        "shares": lambda axes: flow_charts.shares(axes, newest),
        "beside the paper": lambda axes: flow_charts.beside_paper(axes, newest),
        **(over_steps if len(reports) > 1 else {}),
        "position map": lambda axes: flow_charts.position_map(axes, newest),
        "terms": lambda axes: flow_charts.terms(axes, newest),
        "agreement": lambda axes: flow_charts.agreement(axes, newest),
        "ranks": lambda axes: flow_charts.ranks(axes, newest),
        "state cosine": lambda axes: reading_charts.state_cosine(axes, newest),
        **(lens if newest.lens_entropy is not None else {}),
    }


def layers_figure(reports: Sequence[LayerReport]) -> Figure:
    """All panels of a diagnosis as one picture."""
    return figure_of(list(layer_panels(reports).values()), columns=_COLUMNS if len(reports) == 1 else 4)


def draw_layers(reports: Sequence[LayerReport], path: Path) -> None:
    """The picture of a diagnosis, in a file."""
    save_figure(layers_figure(reports), path)


def _plain_text() -> AbstractContextManager[None]:
    """In which a dollar in a name is a dollar."""
    return rc_context({"text.parse_math": False})


class Picture(Figure):
    """A figure that notebooks show as it is."""

    def _repr_png_(self) -> bytes:
        return _png(self, _DPI)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure into a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plain_text():
        figure.savefig(path, dpi=_DPI)


def _png(figure: Figure, dpi: float) -> bytes:
    out = BytesIO()
    with _plain_text():
        figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def figure_of(drawn: Sequence[Panel], columns: int = _COLUMNS, size: tuple[float, float] = _SIZE) -> Figure:
    """Panels side by side, in rows of so many."""
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Picture(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    with _plain_text():
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, panel in zip(grid, drawn, strict=False):
            panel(axes)
        for axes in grid[len(drawn) :]:
            axes.set_axis_off()
    return figure


def view_panels(name: ViewName, comparison: Comparison) -> list[Panel]:
    """What is drawn of a view of a comparison."""
    if name == "ablations":
        return [lambda axes: score_charts.variants(axes, comparison)]
    if name == "dynamics":
        points = trajectories(comparison)
        places = [(model, bench) for model in comparison.models for bench in comparison.benches]
        return [_trajectory(points, model, bench, len(places) > 1) for model, bench in places]
    drawn = [_scores(comparison, model) for model in comparison.models]
    pairs = drawn_pairs(comparison)
    return [*drawn, lambda axes: score_charts.differences(axes, pairs)] if pairs else drawn


def drawn_pairs(comparison: Comparison) -> list[Pair]:
    """The differences of a picture: of means over benchmarks where there are several, the clearest of very many."""
    pairs = [pair for pair in comparison.pairs if pair.bench == SUITE] or comparison.pairs
    kept = sorted(pairs, key=lambda pair: pair.measured.p_value)[:_MOST_PAIRS]
    return [pair for pair in pairs if pair in kept]


def differences_height(comparison: Comparison) -> float:
    """The height of the chart of differences, in inches."""
    return max(_SIZE[1], 0.45 * len(drawn_pairs(comparison)) + 1)


def view_figure(name: ViewName, comparison: Comparison) -> Figure:
    """A view as one picture."""
    height = _SIZE[1]
    if name in ("runs", "methods"):
        height = differences_height(comparison)
    elif name == "ablations":
        height = max(height, 0.45 * len(comparison.methods) + 1)
    return figure_of(view_panels(name, comparison), size=(6, height))


def draw_view(name: ViewName, comparison: Comparison, path: Path) -> None:
    """The picture of a view, in a file."""
    save_figure(view_figure(name, comparison), path)


def _scores(comparison: Comparison, model: str) -> Panel:
    def draw(axes: Axes) -> None:
        score_charts.scores(axes, comparison, model)
        if len(comparison.models) > 1:
            axes.set_xlabel(model)

    return draw


def _trajectory(points: Sequence[score_charts.Point], model: str, bench: str, named: bool) -> Panel:
    def draw(axes: Axes) -> None:
        score_charts.trajectory(axes, points, model, bench)
        if named:
            axes.set_xlabel(f"training step: {model}, {bench}")

    return draw


def draw_bridge(report: BridgeReport, path: Path) -> None:
    """How well a bridge's two sides agree, by rank."""
    save_figure(figure_of([lambda axes: flow_charts.bridge(axes, report)]), path)
