"""Pictures in files: panels put together, drawn by matplotlib without a screen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core import panels
from phfcli.core.diagnose import LayerReport

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


def draw_comparison(comparison: dict[str, Any], path: Path) -> None:
    """Average@n of each run with its standard error, a group for each benchmark."""
    rows = comparison["rows"]
    benches = list(dict.fromkeys(row["bench"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    figure = Figure(figsize=(max(5, 1.1 * len(rows) + 2), 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        own = [row for row in rows if row["name"] == name]
        places = [benches.index(row["bench"]) + (i - (len(names) - 1) / 2) * width for row in own]
        heights = [100 * row["average"] for row in own]
        errors = [100 * (row["stderr"] or 0) for row in own]
        bars = axes.bar(places, heights, width * 0.92, yerr=errors, capsize=3, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set_xticks(range(len(benches)), benches)
    axes.set_ylabel("Average@n, % ± standard error over problems")
    axes.set_ylim(0, 108)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(4, len(names)), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
