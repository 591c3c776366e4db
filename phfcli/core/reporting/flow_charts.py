"""The charts of a hidden flow (energy, cosines, ranks, logit lens), and the helpers that all charts share."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from phfcli.core.analysis.diagnose import PAPER, LayerReport

if TYPE_CHECKING:
    from phfcli.core.analysis.bridge import BridgeReport

INK, QUIET, LINE = "#1c1f24", "#59616c", "#dcdfe4"
SERIES = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b83280", "#718096", "#b7791f", "#0987a0")
BLUE, ORANGE, GREY = SERIES[0], SERIES[1], SERIES[5]
MARKERS = "os^Dv<>P"
STYLES = ("-", "--", "-.", ":")  # so that lines differ in greyscale too
# no shade may equal a colour above, which a page replaces; with 50 or more shades the colour bar would be an image
SHADES = LinearSegmentedColormap.from_list("flow", ["#f7fafc", "#8fccf3", "#2a6bb2", "#19295d"], N=40)
# grey where nothing differs, so that it is neither lost on white nor glaring on black
BOTH_WAYS = LinearSegmentedColormap.from_list("both", ["#1f5a96", "#7fb0d8", "#c8ccd2", "#e5a267", "#b4500f"], N=40)


class Look(NamedTuple):
    """How a run is drawn."""

    colour: str
    marker: str
    line: str


_PLACES: ContextVar[Mapping[str, int]] = ContextVar("places of the runs on a page")


@contextmanager
def one_look_a_run(names: Iterable[str]) -> Iterator[None]:
    """Within it each of these runs looks the same in all charts, whichever of them a chart shows."""
    token = _PLACES.set({name: place for place, name in enumerate(dict.fromkeys(names))})
    try:
        yield
    finally:
        _PLACES.reset(token)


def look_of(name: str, index: int) -> Look:
    """The look of a run: by its place on the page, or, where no page has places, by its index in the chart."""
    place = _PLACES.get({}).get(name, index)
    line = (place + place // len(SERIES)) % len(STYLES)  # of two runs with one colour the lines differ
    return Look(SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)], STYLES[line])


def set_tooltip(artist: Any, text: str) -> None:
    """Gives a mark the text that a page shows when the pointer is on it; see `inline_svg`."""
    artist.set_gid(f"value:{text}")


def shares(axes: Axes, report: LayerReport, top: float | None = None) -> None:
    """Each layer's share of a flow's energy, with a line at the uniform share.

    Args:
        top: the largest share of all flows that are drawn side by side, as a multiple of the uniform share.
    """
    uniform = 100 / len(report.share)
    bars = axes.bar(report.layers, [100 * share for share in report.share], color=BLUE)
    for layer, share, bar in zip(report.layers, report.share, bars, strict=True):
        set_tooltip(bar, f"block {layer}: {100 * share:.1f} %")
    axes.axhline(uniform, color=ORANGE, linestyle="--", label=f"uniform, {uniform:.1f} %")
    axes.set_ylim(0, 1.18 * uniform * max(top or 0, max(report.share) * len(report.share), 1))
    axes.set_xticks(_round(report.layers, 12))
    name_axes(axes, "decoder block", f"share of {report.energy} energy, %")
    axes.legend(frameon=False, loc="upper right", fontsize="small")
    layer, share = report.largest
    entropy = f"entropy {report.entropy:.2f} of {report.max_entropy:.2f} nats"
    title(axes, f"{at_step(report)}block {layer} has most of the energy, {100 * share:.1f} %; {entropy}")


def beside_paper(axes: Axes, report: LayerReport) -> None:
    """The largest share divided by the uniform share: this flow's, and the three that the paper reports."""
    ours = report.largest[1] * len(report.share)
    rows = [(f"ours, {len(report.share)} blocks", ours), *((f"{name}, {L}", p * L) for name, L, p, _ in PAPER)]
    bars = axes.barh([name for name, _ in rows], [value for _, value in rows], color=[BLUE, GREY, GREY, GREY])
    for (name, value), bar in zip(rows, bars, strict=True):
        set_tooltip(bar, f"{name}: {value:.2f}")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color=ORANGE, linestyle="--")
    axes.set_xlim(0, 1.2 * max(value for _, value in rows))
    axes.invert_yaxis()
    name_axes(axes, "largest share / uniform share", "")
    title(axes, "beside the paper, step 100 (grey)")


def share_map(axes: Axes, reports: Sequence[LayerReport], top: float | None = None) -> None:
    """A map of layers x steps: the shares over training, as multiples of the uniform share, up to `top`."""
    depth = len(reports[0].share)
    rows = [[report.share[index] * depth for report in reports] for index in range(depth)]
    steps = [str(index if report.step is None else report.step) for index, report in enumerate(reports)]
    layers = [str(layer) for layer in reports[0].layers]
    named = "share / uniform share"
    cells(axes, rows, layers, steps, lambda row, column: f"block {layers[row]}, step {steps[column]}", named, 1.0, top)
    name_axes(axes, "training step", "decoder block")
    moved = 100 * reports[-1].distance(reports[0])
    run = f"{reports[0].run}: " if reports[0].run else ""
    title(axes, f"{run}from step {steps[0]} to {steps[-1]} {moved:.1f} % of the energy moved to other blocks")


def position_map(axes: Axes, report: LayerReport) -> None:
    """A map of layers x parts of the rollout: the energy of the transitions."""
    parts = len(report.position_map[0])
    layers = [str(layer) for layer in report.layers]
    edges = [str(round(100 * (part + 1) / parts)) for part in range(parts)]
    unit = f"{report.energy} energy"
    cells(
        axes, report.position_map, layers, edges, lambda row, column: f"block {layers[row]}, to {edges[column]} %", unit
    )
    axes.set_xticks([parts * share / 4 - 0.5 for share in range(5)], ["0", "25", "50", "75", "100"])
    name_axes(axes, "along the rollout, %", "decoder block")
    title(axes, f"{at_step(report)}{report.energy} energy along the rollout")


def entropies(axes: Axes, reports: Sequence[LayerReport]) -> None:
    """The entropy of the shares over training, in percent of its maximum, with the paper's values at step 100."""
    steps = [index if report.step is None else report.step for index, report in enumerate(reports)]
    values = [100 * report.entropy / report.max_entropy for report in reports]
    (line,) = axes.plot(steps, values, color=BLUE, marker="o", label="ours")
    set_tooltip(line, ", ".join(f"step {step}: {value:.1f} %" for step, value in zip(steps, values, strict=True)))
    for index, (name, depth, _, nats) in enumerate(PAPER):
        share = 100 * nats / math.log(depth)
        (mark,) = axes.plot([100], [share], color=GREY, marker=MARKERS[index + 1], linestyle="", label=f"paper, {name}")
        set_tooltip(mark, f"{name}, step 100: {share:.1f} %")
    axes.set_ylim(min(90, *values) - 1, 100.5)
    name_axes(axes, "training step", "entropy, % of ln L")
    axes.legend(frameon=False, fontsize="small")
    run = f"{reports[0].run}: " if reports[0].run else ""
    title(axes, f"{run}spread over depth; 100 % is uniform")


def terms(axes: Axes, report: LayerReport) -> None:
    """The direction, geometry and adjacent-layer terms by layer (eq. 6, 7, 10)."""
    kinds = (
        ("direction", "direction, eq. 6"),
        ("geometry", "geometry, eq. 7"),
        ("adjacent", "adjacent layers, eq. 10"),
    )
    for index, (name, label) in enumerate(kinds):
        _by_layer(axes, report, name, label, index)
    from_zero(axes)
    name_axes(axes, "decoder block", "mean over rollouts")
    axes.legend(frameon=False, fontsize="small")
    title(axes, f"{at_step(report)}the terms of the loss")


def agreement(axes: Axes, report: LayerReport) -> None:
    """The cosine of the transitions and the CKA of the states by layer; 1 means no difference."""
    for index, (name, label) in enumerate((("cosine", "cosine of transitions"), ("cka", "CKA of states"))):
        _by_layer(axes, report, name, label, index)
    axes.set_ylim(top=1.005)
    name_axes(axes, "decoder block", "student and teacher")
    axes.legend(frameon=False, fontsize="small")
    title(axes, f"{at_step(report)}agreement of student and teacher; 1 is equal")


def ranks(axes: Axes, report: LayerReport) -> None:
    """The effective rank of student's and teacher's directions by layer."""
    for index, reader in enumerate(("student", "teacher")):
        _by_layer(axes, report, f"rank_{reader}", reader, index)
    from_zero(axes)
    name_axes(axes, "decoder block", "effective rank")
    axes.legend(frameon=False, fontsize="small")
    title(axes, f"{at_step(report)}effective rank of the directions")


def from_zero(axes: Axes) -> None:
    """Starts the y axis at zero, with room above the data."""
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])


def name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)


def title(axes: Axes, text: str) -> None:
    axes.set_title(fill(text, 58), fontsize="medium", loc="left")


def at_step(report: LayerReport) -> str:
    """The run, where there are several, and the step of a report as the start of a title."""
    parts = [*([report.run] if report.run else []), *([] if report.step is None else [f"step {report.step}"])]
    return f"{', '.join(parts)}: " if parts else ""


def _by_layer(axes: Axes, report: LayerReport, name: str, label: str, index: int) -> None:
    """A line of a measure over layers, in the colour of that index."""
    values = report.measures[name]
    known = [(layer, value) for layer, value in zip(report.layers, values, strict=False) if value is not None]
    if not known:
        return
    (line,) = axes.plot(*zip(*known, strict=True), color=SERIES[index], marker=MARKERS[index], label=label)
    set_tooltip(line, f"{label}: " + ", ".join(f"block {layer} {value:.3g}" for layer, value in known))
    axes.set_xticks(_round(report.layers, 12))


def cells(
    axes: Axes,
    rows: Sequence[Sequence[float | None]],
    ys: list[str],
    xs: list[str],
    name: Any,
    label: str,
    middle: float | None = None,
    top: float | None = None,
) -> None:
    """A map of values with a colour bar, in which each cell is a mark with a tooltip.

    Args:
        ys, xs: the labels of rows and columns.
        name: returns the name of the cell (row, column) for its tooltip.
        label: what the colours show.
        middle: the value at which nothing differs, from which colours run both ways; None: from white to blue.
        top: the highest value of the scale, at least that of the map.
    """
    known = [value for row in rows for value in row if value is not None]
    high = max(*known, top or 0, 1e-12)
    scale: Normalize = Normalize(min(0.0, *known), high)
    shades = SHADES
    if middle is not None:
        scale, shades = TwoSlopeNorm(middle, min(0.0, *known), max(high, middle + 1e-6)), BOTH_WAYS
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value is not None:
                cell = Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor=shades(scale(value)), linewidth=0, antialiased=False
                )
                set_tooltip(axes.add_patch(cell), f"{name(y, x)}: {value:.3g}")
    axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    for ticks, labels in ((axes.set_xticks, xs), (axes.set_yticks, ys)):
        numbers = [int(label) if label.isdecimal() else index for index, label in enumerate(labels)]
        indices = [numbers.index(number) for number in _round(numbers, 10)]
        ticks(indices, [labels[index] for index in indices])
    bar = axes.figure.colorbar(ScalarMappable(scale, shades), ax=axes, label=label)
    bar.outline.set_visible(False)
    assert bar.solids is not None
    bar.solids.set_edgecolor("face")


def _round(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values: all, else the multiples of 2, 5, 10, 20, ...; evenly spaced ones if none is."""
    steps = (factor * 10**power for power in range(7) for factor in (1, 2, 5))
    for step in steps if len(values) > most else (1,):
        chosen = [value for value in values if value % step == 0]
        if 2 <= len(chosen) <= most or (step == 1 and len(values) <= most):
            return chosen
    return list(values)[:: -(-len(values) // most)]


def bridge(axes: Axes, report: "BridgeReport") -> None:
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
    cosine = report.state_cosine
    for index, (end, rows) in enumerate(cosine.ends()):
        ends = [(k, row[-1]) for k, row in zip(cosine.tokens, rows, strict=True)]
        points = [(k, value, f"{k} {value:.4f}") for k, value in ends if value is not None]
        _line(axes, points, f"{end} k tokens", index)
    axes.set_xscale("log", base=2)
    axes.set_xticks(cosine.tokens, [*map(str, cosine.tokens[:-1]), "all"])
    name_axes(axes, "k tokens of the rollout", f"cosine of states, block {report.layers[-1]}")
    axes.legend(frameon=False, fontsize="small")
    title(axes, f"{at_step(report)}student's and teacher's states at both ends")


def lens_entropy(axes: Axes, report: LayerReport) -> None:
    """The logit lens: the entropy of the prediction from each block's output (OISD, figure 5)."""
    assert report.lens_entropy is not None
    points = [(x, y, f"block {x} {y:.3g}") for x, y in zip(report.layers, report.lens_entropy, strict=True)]
    _line(axes, points, "entropy", 0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    from_zero(axes)
    name_axes(axes, "decoder block", "entropy, nats a token")
    title(axes, f"{at_step(report)}logit lens: entropy of each block's prediction")


def _line(axes: Axes, points: Sequence[tuple[float, float, str]], label: str, index: int) -> None:
    """A line through (x, y, text), with the texts as its tooltip, in the colour of that index."""
    xs, ys, texts = zip(*points, strict=True)
    (line,) = axes.plot(xs, ys, color=SERIES[index], marker=MARKERS[index], label=label)
    set_tooltip(line, f"{label}: {', '.join(texts)}")
