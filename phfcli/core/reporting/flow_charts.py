"""The charts of a hidden flow: energy over depth and along the rollout, cosine, and the logit lens."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from phfcli.core.analysis.bridge import BridgeReport
from phfcli.core.analysis.diagnose import PAPER, LayerReport

INK, QUIET, LINE = "#1c1f24", "#59616c", "#dcdfe4"
SERIES = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b83280", "#718096", "#b7791f", "#0987a0")
BLUE, ORANGE, GREY = SERIES[0], SERIES[1], SERIES[5]
MARKERS = "os^Dv<>P"
# no shade of a map is a colour of the above, which a page may exchange; from 50 on their scale would be an image
SHADES = LinearSegmentedColormap.from_list("flow", ["#f7fafc", "#8fccf3", "#2a6bb2", "#19295d"], N=40)


def tell(artist: Any, text: str) -> None:
    """Gives a mark the text that a page shows when somebody points at it."""
    artist.set_gid(f"value:{text}")


def shares(axes: Axes, report: LayerReport) -> None:
    """Each layer's share of one flow's energy, with the uniform line."""
    uniform = 100 / len(report.share)
    bars = axes.bar(report.layers, [100 * share for share in report.share], color=BLUE)
    for layer, share, bar in zip(report.layers, report.share, bars, strict=True):
        tell(bar, f"block {layer}: {100 * share:.1f} %")
    axes.axhline(uniform, color=ORANGE, linestyle="--", label=f"uniform, {uniform:.1f} %")
    axes.set_ylim(0, 1.18 * max(100 * max(report.share), uniform))
    axes.set_xticks(_ticks(report.layers, 12))
    name_axes(axes, "decoder block", f"share of {report.energy} energy, %")
    axes.legend(frameon=False, loc="upper right")
    title(axes, f"{at_step(report)}entropy {report.entropy:.2f} of {report.max_entropy:.2f} nats")


def beside_paper(axes: Axes, report: LayerReport) -> None:
    """The largest share over the uniform one: ours, and the three that the paper reports."""
    ours = report.largest[1] * len(report.share)
    rows = [(f"ours, {len(report.share)} blocks", ours), *((f"{name}, {L}", p * L) for name, L, p, _ in PAPER)]
    bars = axes.barh([name for name, _ in rows], [value for _, value in rows], color=[BLUE, GREY, GREY, GREY])
    for (name, value), bar in zip(rows, bars, strict=True):
        tell(bar, f"{name}: {value:.2f}")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color=ORANGE, linestyle="--")
    axes.set_xlim(0, 1.2 * max(value for _, value in rows))
    axes.invert_yaxis()
    name_axes(axes, "largest share / uniform share", "")
    title(axes, "beside the paper, step 100 (grey)")


def share_map(axes: Axes, reports: Sequence[LayerReport]) -> None:
    """Layers x steps: how the shares change over training, as multiples of the uniform share."""
    depth = len(reports[0].share)
    rows = [[report.share[index] * depth for report in reports] for index in range(depth)]
    steps = [str(place if report.step is None else report.step) for place, report in enumerate(reports)]
    layers = [str(layer) for layer in reports[0].layers]
    cells(axes, rows, layers, steps, lambda row, column: f"block {layers[row]}, step {steps[column]}")
    name_axes(axes, "training step", "decoder block")
    title(axes, "share / uniform share over training")


def position_map(axes: Axes, report: LayerReport) -> None:
    """Layers x parts of the rollout: where the transitions differ."""
    parts = len(report.position_map[0])
    layers = [str(layer) for layer in report.layers]
    edges = [str(round(100 * (part + 1) / parts)) for part in range(parts)]
    cells(axes, report.position_map, layers, edges, lambda row, column: f"block {layers[row]}, to {edges[column]} %")
    name_axes(axes, "along the rollout, %", "decoder block")
    title(axes, f"{at_step(report)}{report.energy} energy along the rollout")


def entropies(axes: Axes, reports: Sequence[LayerReport]) -> None:
    """The entropy of the shares over training, in parts of its maximum, with the paper's at step 100."""
    steps = [place if report.step is None else report.step for place, report in enumerate(reports)]
    values = [100 * report.entropy / report.max_entropy for report in reports]
    (line,) = axes.plot(steps, values, color=BLUE, marker="o", label="ours")
    tell(line, ", ".join(f"step {step}: {value:.1f} %" for step, value in zip(steps, values, strict=True)))
    for place, (name, depth, _, nats) in enumerate(PAPER):
        share = 100 * nats / math.log(depth)
        (mark,) = axes.plot([100], [share], color=GREY, marker=MARKERS[place + 1], linestyle="", label=f"paper, {name}")
        tell(mark, f"{name}, step 100: {share:.1f} %")
    axes.set_ylim(min(90, *values) - 1, 100.5)
    name_axes(axes, "training step", "entropy, % of ln L")
    axes.legend(frameon=False, fontsize=9)
    title(axes, "spread over depth; 100 % is uniform")


def terms(axes: Axes, report: LayerReport) -> None:
    """The direction, geometry and neighbouring-layer terms by layer."""
    kinds = (("direction", "direction, eq. 6"), ("geometry", "geometry, eq. 7"), ("adjacent", "with the next, eq. 10"))
    for place, (name, label) in enumerate(kinds):
        _by_layer(axes, report, name, label, place)
    from_zero(axes)
    name_axes(axes, "decoder block", "mean over rollouts")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}the terms of the loss")


def agreement(axes: Axes, report: LayerReport) -> None:
    """Cosine of the transitions and CKA of the states by layer: 1 is no difference."""
    for place, (name, label) in enumerate((("cosine", "cosine of transitions"), ("cka", "CKA of states"))):
        _by_layer(axes, report, name, label, place)
    axes.set_ylim(top=1.005)
    name_axes(axes, "decoder block", "student and teacher")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}agreement of both readers, 1 is alike")


def ranks(axes: Axes, report: LayerReport) -> None:
    """The effective rank of both readers' transitions by layer."""
    for place, reader in enumerate(("student", "teacher")):
        _by_layer(axes, report, f"rank_{reader}", reader, place)
    from_zero(axes)
    name_axes(axes, "decoder block", "effective rank")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}directions that transitions take")


def from_zero(axes: Axes) -> None:
    """Starts the scale at zero and leaves room above what is drawn."""
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])


def name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=11, loc="left")


def at_step(report: LayerReport) -> str:
    return "" if report.step is None else f"step {report.step}: "


def _by_layer(axes: Axes, report: LayerReport, name: str, label: str, place: int) -> None:
    values = report.measures[name]
    known = [(layer, value) for layer, value in zip(report.layers, values, strict=False) if value is not None]
    if not known:
        return
    (line,) = axes.plot(*zip(*known, strict=True), color=SERIES[place], marker=MARKERS[place], label=label)
    tell(line, f"{label}: " + ", ".join(f"block {layer} {value:.3g}" for layer, value in known))
    axes.set_xticks(_ticks(report.layers, 12))


def cells(axes: Axes, rows: Sequence[Sequence[float | None]], ys: list[str], xs: list[str], name: Any) -> None:
    """A map of values from white to blue, each cell a mark of its own, with a scale at the right."""
    known = [value for row in rows for value in row if value is not None]
    scale = Normalize(min(0.0, *known), max(*known, 1e-12))
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value is not None:
                cell = Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor=SHADES(scale(value)), linewidth=0, antialiased=False
                )
                tell(axes.add_patch(cell), f"{name(y, x)}: {value:.3g}")
    axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    for ticks, labels in ((axes.set_xticks, xs), (axes.set_yticks, ys)):
        places = _ticks(range(len(labels)), 10)
        ticks(places, [labels[place] for place in places])
    bar = axes.figure.colorbar(ScalarMappable(scale, SHADES), ax=axes)
    bar.outline.set_visible(False)
    assert bar.solids is not None
    bar.solids.set_edgecolor("face")


def _ticks(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, the first among them."""
    every = -(-len(values) // most)
    return list(values)[::every]


def bridge(axes: Axes, report: BridgeReport) -> None:
    """The cosine of both models' projected states by rank, before and after the fit."""
    ranks = [row.rank for row in report.by_rank]
    axes.plot(ranks, [row.before for row in report.by_rank], color=GREY, linestyle="--", marker="o", label="before")
    axes.plot(ranks, [row.after for row in report.by_rank], color=BLUE, marker="o", label="after the fit")
    axes.axvline(report.rank, color=ORANGE, linestyle=":", label=f"rank {report.rank}, kept")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    name_axes(axes, "rank of the bridge", "cosine on held-out rollouts")
    axes.legend(frameon=False)


def state_cosine(axes: Axes, report: LayerReport) -> None:
    """The cosine of the last block's states over the first and over the last k tokens (OPRD, figure 8)."""
    found = report.state_cosine
    for place, (end, rows) in enumerate(found.ends()):
        ends = [(k, row[-1]) for k, row in zip(found.tokens, rows, strict=True)]
        points = [(k, value, f"{k} {value:.4f}") for k, value in ends if value is not None]
        _line(axes, points, f"{end} k tokens", place)
    axes.set_xscale("log", base=2)
    axes.set_xticks(found.tokens, [*map(str, found.tokens[:-1]), "all"])
    name_axes(axes, "k tokens of the rollout", f"cosine of states, block {report.layers[-1]}")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}both readers' states at either end")


def lens_entropy(axes: Axes, report: LayerReport) -> None:
    """The entropy of each block's own prediction, the logit lens along depth (OISD, figure 5)."""
    assert report.lens_entropy is not None
    points = [(x, y, f"block {x} {y:.3g}") for x, y in zip(report.layers, report.lens_entropy, strict=True)]
    _line(axes, points, "entropy", 0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    from_zero(axes)
    name_axes(axes, "decoder block", "entropy, nats a token")
    title(axes, f"{at_step(report)}logit lens: how open each block's prediction is")


def _line(axes: Axes, points: Sequence[tuple[float, float, str]], label: str, place: int) -> None:
    """A line that tells what each of its points says."""
    xs, ys, told = zip(*points, strict=True)
    (line,) = axes.plot(xs, ys, color=SERIES[place], marker=MARKERS[place], label=label)
    tell(line, f"{label}: {', '.join(told)}")
