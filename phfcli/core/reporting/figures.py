"""Draws pictures of several charts side by side into files, by matplotlib without a display."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core.analysis.compare import SUITE, Comparison, Pair
from phfcli.core.analysis.diagnose import LayerReport, by_run
from phfcli.core.errors import UserError
from phfcli.core.names import ViewName
from phfcli.core.reporting import flow_charts, score_charts
from phfcli.core.reporting.tables import trajectories

if TYPE_CHECKING:
    from phfcli.core.analysis.bridge import BridgeReport

Panel = Callable[[Axes], None]  # draws one chart

_COLUMNS = 3
_MOST_PAIRS = 24  # differences in one panel
_SIZE = (4.9, 3.7)  # of a panel, in inches
_COLUMN = (3.4, 2.7)  # of a panel as wide as a column of a paper
_DPI = 130


def layer_panels(reports: Sequence[LayerReport]) -> dict[str, list[Panel]]:
    """Name -> charts of the flows, one for each run, all with one scale; several steps add charts over training."""
    runs = by_run(reports)
    newest = [run[-1] for run in runs]
    top, most = (max(max(report.share) * len(report.share) for report in group) for group in (newest, reports))
    several = all(len(run) > 1 for run in runs)
    over_steps: dict[str, list[Panel]] = {
        "share map": [partial(flow_charts.share_map, reports=run, top=most) for run in runs],
        "entropies": [partial(flow_charts.entropies, reports=run) for run in runs],
    }
    each = {
        "position map": flow_charts.position_map,
        "terms": flow_charts.terms,
        "agreement": flow_charts.agreement,
        "ranks": flow_charts.ranks,
        "state cosine": flow_charts.state_cosine,
        "beside the paper": flow_charts.beside_paper,
        **({"lens entropy": flow_charts.lens_entropy} if all(r.lens_entropy is not None for r in newest) else {}),
    }
    return {
        "shares": [partial(flow_charts.shares, report=report, top=top) for report in newest],
        **(over_steps if several else {}),
        **{name: [partial(draw, report=report) for report in newest] for name, draw in each.items()},
    }


MAIN_PANELS = ("shares", "share map")  # the paper's two figures


def chosen_panels(reports: Sequence[LayerReport], panel: str | None) -> list[Panel]:
    """The charts of that name, or the two main ones; "all" is every chart. Raises UserError for another name."""
    panels = layer_panels(reports)
    if panel is None:
        return [chart for name in MAIN_PANELS for chart in panels.get(name, ())]
    if panel == "all":
        return [chart for charts in panels.values() for chart in charts]
    name = panel.replace("-", " ")
    if name not in panels:
        raise UserError(f"panel: {panel} is not there; there are {', '.join(n.replace(' ', '-') for n in panels)}, all")
    return panels[name]


def layers_figure(reports: Sequence[LayerReport], panel: str | None = None) -> Figure:
    """The picture of a diagnosis; a single chart has the width of a paper's column."""
    charts = chosen_panels(reports, panel)
    if panel is not None and len(charts) == 1:
        with rc_context({"font.size": 8, "lines.markersize": 4}):
            return figure_of(charts, size=_COLUMN)
    runs = len(by_run(reports))
    return figure_of(charts, columns=runs if runs > 1 else 2 if panel is None else _COLUMNS, size=(6.0, 4.4))


def draw_layers(reports: Sequence[LayerReport], path: Path, panel: str | None = None) -> None:
    """Writes the picture of a diagnosis."""
    save_figure(layers_figure(reports, panel), path)


def draw_panel(axes: Axes, reports: Sequence[LayerReport], panel: str | None) -> None:
    """Draws one chart of a diagnosis into a caller's axes. Raises UserError if there are several of that name."""
    charts = chosen_panels(reports, panel or MAIN_PANELS[0])
    if len(charts) > 1:
        raise UserError("panel: a chart for each of several runs does not fit into one ax; diagnose one run")
    with _as_text():
        charts[0](axes)


def _as_text() -> AbstractContextManager[None]:
    """A context in which text stays text in SVG and TrueType in PDF, and dollar signs are no mathematics."""
    return rc_context(
        {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "phf", "pdf.fonttype": 42, "ps.fonttype": 42}
    )


class Picture(Figure):
    """A figure that notebooks display as PNG."""

    def _repr_png_(self) -> bytes:
        return _png(self, _DPI)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure; the ending of the file name decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _as_text():
        figure.savefig(path, dpi=_DPI)


def _png(figure: Figure, dpi: float) -> bytes:
    out = BytesIO()
    with _as_text():
        figure.savefig(out, format="png", dpi=dpi)
    return out.getvalue()


def figure_of(drawn: Sequence[Panel], columns: int = _COLUMNS, size: tuple[float, float] = _SIZE) -> Figure:
    """A figure of several charts, `columns` in each row; `size` is that of one chart in inches."""
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Picture(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    with _as_text():
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
        return [partial(score_charts.trajectory, points=points, model=m, bench=bench) for m, bench in pairs_drawn]
    drawn: list[Panel] = [
        partial(score_charts.scores, comparison=comparison, model=model) for model in comparison.models
    ]
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


def draw_bridge(report: "BridgeReport", path: Path) -> None:
    """Writes the picture of a bridge: the cosine of both models' projected states by rank."""
    save_figure(figure_of([lambda axes: flow_charts.bridge(axes, report)]), path)
