"""Pictures, drawn by matplotlib without a screen."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phfcli.core.bridge_fit import BridgeReport
from phfcli.core.diagnose import LayerReport

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#718096"


def draw_layers(reports: list[LayerReport], path: Path) -> None:
    """Shares of the newest flow's energy by layer and, for several steps, how they and their entropy changed."""
    wide = len(reports) > 1
    figure = Figure(figsize=(11 if wide else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if wide else 1, squeeze=False)[0]
    _shares(axes[0], reports[-1])
    if wide:
        _entropies(axes[1], reports)
    _save(figure, path)


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
    _save(figure, path)


def draw_bridge(report: BridgeReport, path: Path) -> None:
    """The cosine of both models' projected states by rank, before and after the fit."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ranks = [row.rank for row in report.by_rank]
    axes.plot(ranks, [row.before for row in report.by_rank], color=_GREY, linestyle="--", marker="o", label="before")
    axes.plot(ranks, [row.after for row in report.by_rank], color=_BLUE, marker="o", label="after the fit")
    axes.axvline(report.rank, color=_ORANGE, linestyle=":", label=f"rank {report.rank}, kept")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.set_xlabel("rank of the bridge")
    axes.set_ylabel("cosine on held-out rollouts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _save(figure, path)


def _shares(axes: Axes, report: LayerReport) -> None:
    uniform = 100 / len(report.share)
    axes.bar(report.layers, [100 * share for share in report.share], color=_BLUE)
    axes.axhline(uniform, color=_ORANGE, linestyle="--", label=f"uniform, {uniform:.1f} %")
    axes.set_xticks(report.layers if len(report.layers) <= 12 else report.layers[3::4])
    axes.set_xlabel("decoder block")
    axes.set_ylabel(f"share of {report.energy} energy, %")
    step = "" if report.step is None else f"step {report.step}: "
    axes.set_title(f"{step}entropy {report.entropy:.2f} of {report.max_entropy:.2f} nats", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _entropies(axes: Axes, reports: list[LayerReport]) -> None:
    steps = [index if report.step is None else report.step for index, report in enumerate(reports)]
    for place, layer in enumerate(reports[-1].layers):
        shade = 0.25 + 0.75 * place / max(len(reports[-1].layers) - 1, 1)
        values = [100 * report.share[place] for report in reports]
        label = f"block {layer}" if len(reports[-1].layers) <= 8 else None
        axes.plot(steps, values, color=_BLUE, alpha=shade, marker="o", label=label)
    axes.set_xticks(steps if len(steps) <= 12 else steps[:: len(steps) // 8])
    axes.set_xlabel("training step")
    axes.set_ylabel("share of energy, %")
    axes.set_ylim(bottom=0)
    axes.set_title("how the shares change; darker is deeper", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    if len(reports[-1].layers) <= 8:
        axes.legend(frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
