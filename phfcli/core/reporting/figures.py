"""Draws pictures of several charts side by side into files, by matplotlib without a display."""

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

Panel = Callable[[Axes], None]  # draws one chart

_COLUMNS = 3
_MOST_PAIRS = 24  # differences in one panel
_SIZE = (4.9, 3.7)  # of a panel, in inches
_DPI = 130


def layer_panels(reports: Sequence[LayerReport]) -> dict[str, Panel]:
    """Name -> chart of the flows of one model, given in the order of steps; several steps add charts over training."""
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
    """Writes the picture of a diagnosis."""
    save_figure(layers_figure(reports), path)


def _plain_text() -> AbstractContextManager[None]:
    """A context in which matplotlib takes dollar signs as text, not as mathematics."""
    return rc_context({"text.parse_math": False})


class Picture(Figure):
    """A figure that notebooks display as PNG."""

    def _repr_png_(self) -> bytes:
        return _png(self, _DPI)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of the file name decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plain_text():
        figure.savefig(path, dpi=_DPI)


def _png(figure: Figure, dpi: float) -> bytes:
    out = BytesIO()
    with _plain_text():
        figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def figure_of(drawn: Sequence[Panel], columns: int = _COLUMNS, size: tuple[float, float] = _SIZE) -> Figure:
    """A figure of several charts, `columns` in each row; `size` is that of one chart in inches."""
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
    """The charts of a view of a comparison."""
    if name == "ablations":
        return [lambda axes: score_charts.variants(axes, comparison)]
    if name == "dynamics":
        points = trajectories(comparison)
        pairs_drawn = [(model, bench) for model in comparison.models for bench in comparison.benches]
        return [_trajectory(points, model, bench, len(pairs_drawn) > 1) for model, bench in pairs_drawn]
    drawn = [_scores(comparison, model) for model in comparison.models]
    pairs = drawn_pairs(comparison)
    return [*drawn, lambda axes: score_charts.differences(axes, pairs)] if pairs else drawn


def drawn_pairs(comparison: Comparison) -> list[Pair]:
    """The differences to draw: those of the mean if there are several benchmarks, and of many the smallest p-values."""
    pairs = [pair for pair in comparison.pairs if pair.bench == SUITE] or comparison.pairs
    kept = sorted(pairs, key=lambda pair: pair.measured.p_value)[:_MOST_PAIRS]
    return [pair for pair in pairs if pair in kept]


def differences_height(comparison: Comparison) -> float:
    """The height of the chart of differences, in inches."""
    return max(_SIZE[1], 0.45 * len(drawn_pairs(comparison)) + 1)


def view_figure(name: ViewName, comparison: Comparison) -> Figure:
    """The picture of a view."""
    height = _SIZE[1]
    if name in ("runs", "methods"):
        height = differences_height(comparison)
    elif name == "ablations":
        height = max(height, 0.45 * len(comparison.methods) + 1)
    return figure_of(view_panels(name, comparison), size=(6, height))


def draw_view(name: ViewName, comparison: Comparison, path: Path) -> None:
    """Writes the picture of a view."""
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
    """Writes the picture of a bridge: the cosine of both models' projected states by rank."""
    save_figure(figure_of([lambda axes: flow_charts.bridge(axes, report)]), path)
