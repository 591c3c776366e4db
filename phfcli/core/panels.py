"""Single panels of pictures, each drawn on its own axes; docs/figures.md says how to read them.

A mark that carries a value has a gid "value:TEXT": where the picture becomes part of a page, the text is shown when
the mark is pointed at.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from phfcli.core.bridge_fit import BridgeReport
from phfcli.core.compare import Arm, Comparison, Pair
from phfcli.core.diagnose import PAPER, LayerReport

Point = tuple[Arm, str, int, float, float | None]  # benchmark, step, score, its error

INK, QUIET, LINE = "#1c1f24", "#59616c", "#dcdfe4"
SERIES = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b83280", "#718096", "#b7791f", "#0987a0")
BLUE, ORANGE, GREY = SERIES[0], SERIES[1], SERIES[5]
MARKERS = "os^Dv<>P"
_SHADES = 40  # of a map: from 50 on matplotlib would draw their scale as an image


def tell(artist: Any, text: str) -> None:
    """What a page shows when the mark is pointed at."""
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
    _cells(axes, rows, layers, steps, lambda row, column: f"block {layers[row]}, step {steps[column]}")
    name_axes(axes, "training step", "decoder block")
    title(axes, "share / uniform share over training")


def position_map(axes: Axes, report: LayerReport) -> None:
    """Layers x parts of the rollout: where the transitions differ."""
    parts = len(report.position_map[0])
    layers = [str(layer) for layer in report.layers]
    edges = [str(round(100 * (part + 1) / parts)) for part in range(parts)]
    _cells(axes, report.position_map, layers, edges, lambda row, column: f"block {layers[row]}, to {edges[column]} %")
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
    title(axes, f"{at_step(report)}agreement, 1 is none apart")


def ranks(axes: Axes, report: LayerReport) -> None:
    """The effective rank of both readers' transitions by layer."""
    for place, reader in enumerate(("student", "teacher")):
        _by_layer(axes, report, f"rank_{reader}", reader, place)
    from_zero(axes)
    name_axes(axes, "decoder block", "effective rank")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{at_step(report)}directions that transitions take")


def scores(axes: Axes, comparison: Comparison, model: str) -> None:
    """Table 1: Average@n of a model's methods on each benchmark, with the error over problems."""
    benches = comparison.benches
    arms = [arm for arm in comparison.arms if arm.model == model]
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        own = [bench for bench in benches if bench in arm.benches]
        xs = [benches.index(bench) + (place - (len(arms) - 1) / 2) * width for bench in own]
        values = [arm.average(bench) for bench in own]
        heights, errors = [100 * value for value, _ in values], [100 * (error or 0) for _, error in values]
        bars = axes.bar(xs, heights, 0.92 * width, label=arm.name, color=SERIES[place % len(SERIES)])
        axes.errorbar(xs, heights, errors, linestyle="", color=INK, capsize=3, linewidth=1)
        for bench, height, error, bar in zip(own, heights, errors, bars, strict=True):
            tell(bar, f"{arm.name}, {bench}: {height:.1f} ± {error:.1f} %")
    axes.set_xticks(range(len(benches)), benches)
    axes.set_ylim(0, 100)
    name_axes(axes, "", "Average@n, %")
    _legend_above(axes, len(arms))


def differences(axes: Axes, pairs: Sequence[Pair]) -> None:
    """Each tested difference with its interval; grey is what the comparison could not have shown."""
    for place, pair in enumerate(pairs):
        told = pair.result
        if told.detectable:
            axes.barh(place, 200 * told.detectable, left=-100 * told.detectable, height=0.7, color=LINE, zorder=0)
        value = 100 * told.difference
        low, high = (value if bound is None else 100 * bound for bound in (told.low, told.high))
        axes.plot([low, high], [place, place], color=BLUE, linewidth=2)
        (mark,) = axes.plot([value], [place], color=BLUE, marker="o")
        tell(mark, f"{pair.b} - {pair.a}, {pair.bench}: {value:+.1f} points, {low:+.1f} to {high:+.1f}")
    axes.axvline(0, color=INK, linewidth=1)
    several = len({pair.model for pair in pairs}) > 1
    places = [f"{pair.model}, {pair.bench}" if several else pair.bench for pair in pairs]
    axes.set_yticks(
        range(len(pairs)),
        [f"{pair.b} - {pair.a}\n{place}" for pair, place in zip(pairs, places, strict=True)],
        fontsize=9,
    )
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    name_axes(axes, "points, with 95% interval", "")
    title(axes, "differences; grey: too small to show")


def variants(axes: Axes, comparison: Comparison) -> None:
    """Table 2: the mean over the benchmarks of each variant, a marker for each model."""
    names = list(dict.fromkeys(arm.name for arm in comparison.arms))
    for place, model in enumerate(comparison.models):
        for arm in comparison.arms:
            suite = arm.suite(comparison.benches) if arm.model == model else None
            if suite is None:
                continue
            value, error = 100 * suite[0], 100 * (suite[1] or 0)
            y = names.index(arm.name) + 0.15 * (place - (len(comparison.models) - 1) / 2)
            axes.errorbar([value], [y], xerr=[error], color=SERIES[place], capsize=3)
            label = model if arm.name == names[0] else None
            (mark,) = axes.plot([value], [y], color=SERIES[place], marker=MARKERS[place], linestyle="", label=label)
            tell(mark, f"{arm.name}, {model}: {value:.1f} ± {error:.1f} %")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    name_axes(axes, f"Average@n of {' + '.join(comparison.benches)}, %", "")
    _legend_above(axes, len(comparison.models))


def trajectory(axes: Axes, points: Sequence[Point], model: str, bench: str) -> None:
    """Figure 2: the score of each method over training, with the error over problems; what is untrained is a line."""
    arms = {id(arm): arm for arm, at, *_ in points if (arm.model, at) == (model, bench)}
    for place, arm in enumerate(arms.values()):
        own = [
            (step, 100 * score, 100 * (error or 0)) for a, b, step, score, error in points if a is arm and b == bench
        ]
        colour = SERIES[place % len(SERIES)]
        steps, values, errors = zip(*own, strict=True)
        told = ", ".join(f"step {step}: {value:.1f} ± {error:.1f}" for step, value, error in own)
        if steps == (0,):
            line = axes.axhline(values[0], color=colour, linestyle="--", label=arm.name)
            axes.axhspan(values[0] - errors[0], values[0] + errors[0], color=colour, alpha=0.12, linewidth=0)
        else:
            marker = MARKERS[place % len(MARKERS)]
            (line,) = axes.plot(steps, values, color=colour, marker=marker, label=arm.name)
            axes.errorbar(steps, values, errors, linestyle="", color=colour, capsize=3, alpha=0.6)
        tell(line, f"{arm.name}: {told}")
    name_axes(axes, "training step", "Average@n, %")
    _legend_above(axes, len(arms))


def curves(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], name: str) -> None:
    """A metric over training, a line for each run that has it; a run keeps its colour from metric to metric."""
    for place, (run, points) in enumerate(curves.items()):
        if not points:
            continue
        style = "-" if place < len(SERIES) else "--"
        steps, values = zip(*points, strict=True)
        (line,) = axes.plot(steps, values, style, color=SERIES[place % len(SERIES)], linewidth=1.3, label=run)
        tell(line, f"{run}: {values[0]:.4g} at step {steps[0]:g}, {values[-1]:.4g} at step {steps[-1]:g}")
    name_axes(axes, "training step", name)
    _legend_above(axes, sum(map(bool, curves.values())))


def _legend_above(axes: Axes, entries: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(3, entries), frameon=False, fontsize=9)


def from_zero(axes: Axes) -> None:
    """The scale starts at zero, with room above what is drawn."""
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


def _cells(axes: Axes, rows: Sequence[Sequence[float | None]], ys: list[str], xs: list[str], name: Any) -> None:
    """A map of values from white to blue, each cell a mark of its own, with a scale at the right."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    known = [value for row in rows for value in row if value is not None]
    scale = Normalize(min(0.0, *known), max(*known, 1e-12))
    colours = LinearSegmentedColormap.from_list("flow", ["#f7fafc", "#90cdf4", "#2b6cb0", "#1a2a5e"], N=_SHADES)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value is not None:
                cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colours(scale(value)), linewidth=0)
                tell(axes.add_patch(cell), f"{name(y, x)}: {value:.3g}")
    axes.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    for ticks, labels in ((axes.set_xticks, xs), (axes.set_yticks, ys)):
        places = _ticks(range(len(labels)), 10)
        ticks(places, [labels[place] for place in places])
    bar = axes.figure.colorbar(ScalarMappable(scale, colours), ax=axes)
    bar.outline.set_visible(False)


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
