"""The charts of scores: averages, differences, training curves, and samples."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median, quantiles

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.analysis.methods import Method
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, SavedSample
from phfcli.core.evaluation.scores import pass_at_k
from phfcli.core.reporting.flow_charts import BLUE, INK, LINE, MARKERS, SERIES, look_of, name_axes, set_tooltip, title

_LOG_RATIO = 100  # a curve with a larger ratio of its extremes gets a logarithmic scale
_TOOLTIPS = 25  # points of a curve with a tooltip

Point = tuple[Method, str, int, float, float | None]  # method, benchmark, step, score, its error


def scores(axes: Axes, comparison: Comparison, model: str) -> None:
    """Table 1 of the paper: Average@n of a model's methods on each benchmark, with the standard error over problems."""
    benches = comparison.benches
    methods = [method for method in comparison.methods if method.model == model]
    width = 0.8 / len(methods)
    for index, method in enumerate(methods):
        evaluated = [bench for bench in benches if bench in method.benches]
        xs = [benches.index(bench) + (index - (len(methods) - 1) / 2) * width for bench in evaluated]
        values = [method.average(bench) for bench in evaluated]
        heights, errors = [100 * value for value, _ in values], [100 * (error or 0) for _, error in values]
        bars = axes.bar(xs, heights, 0.92 * width, label=method.name, color=look_of(method.name, index).colour)
        for x, height, error in zip(xs, heights, errors, strict=True):
            axes.text(x, height + error + 1, f"{height:.1f}", ha="center", va="bottom", fontsize=8, color=INK)
        axes.errorbar(xs, heights, errors, linestyle="", color=INK, capsize=3, linewidth=1)
        for bench, height, error, bar in zip(evaluated, heights, errors, bars, strict=True):
            set_tooltip(bar, f"{method.name}, {bench}: {height:.1f} ± {error:.1f} %")
    axes.set_xticks(range(len(benches)), benches)
    axes.set_ylim(0, 100)
    name_axes(axes, f"scores from {model}, on each benchmark", "Average@n, %")
    legend_above(axes, len(methods))


def differences(axes: Axes, pairs: Sequence[Pair]) -> None:
    """Each tested difference with its interval; grey marks true differences that the test would often miss."""
    for y, pair in enumerate(pairs):
        result = pair.result
        if result.detectable:
            axes.barh(y, 200 * result.detectable, left=-100 * result.detectable, height=0.7, color=LINE, zorder=0)
        value = 100 * result.difference
        low, high = (value if bound is None else 100 * bound for bound in (result.low, result.high))
        axes.plot([low, high], [y, y], color=BLUE, linewidth=2)
        (mark,) = axes.plot([value], [y], color=BLUE, marker="o")
        set_tooltip(mark, f"{pair.b} - {pair.a}, {pair.bench}: {value:+.1f} points, {low:+.1f} to {high:+.1f}")
    axes.axvline(0, color=INK, linewidth=1)
    several = len({pair.model for pair in pairs}) > 1
    captions = [f"{pair.model}, {pair.bench}" if several else pair.bench for pair in pairs]
    axes.set_yticks(
        range(len(pairs)),
        [f"{pair.b} - {pair.a}\n{caption}" for pair, caption in zip(pairs, captions, strict=True)],
        fontsize=9,
    )
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    units = " and ".join(dict.fromkeys(pair.measured.unit for pair in pairs))
    name_axes(axes, f"points, with 95% interval over {units}", "")
    title(axes, "differences between runs")


def variants(axes: Axes, comparison: Comparison) -> None:
    """Table 2 of the paper: the mean over benchmarks of each variant, a marker for each model."""
    names = list(dict.fromkeys(method.name for method in comparison.methods))
    for index, model in enumerate(comparison.models):
        for method in comparison.methods:
            suite = method.suite(comparison.benches) if method.model == model else None
            if suite is None:
                continue
            value, error = 100 * suite[0], 100 * (suite[1] or 0)
            y = names.index(method.name) + 0.15 * (index - (len(comparison.models) - 1) / 2)
            axes.errorbar([value], [y], xerr=[error], color=SERIES[index], capsize=3)
            label = model if method.name == names[0] else None
            (mark,) = axes.plot([value], [y], color=SERIES[index], marker=MARKERS[index], linestyle="", label=label)
            set_tooltip(mark, f"{method.name}, {model}: {value:.1f} ± {error:.1f} %")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    name_axes(axes, f"Average@n on {' + '.join(comparison.benches)}, %", "")
    legend_above(axes, len(comparison.models))


def trajectory(axes: Axes, points: Sequence[Point], model: str, bench: str) -> None:
    """Figure 2 of the paper: each method's score over training; a horizontal line for an untrained model."""
    methods = {
        id(method): method for method, point_bench, *_ in points if (method.model, point_bench) == (model, bench)
    }
    for index, method in enumerate(methods.values()):
        curve = [
            (step, 100 * score, 100 * (error or 0)) for a, b, step, score, error in points if a is method and b == bench
        ]
        look = look_of(method.name, index)
        steps, values, errors = zip(*curve, strict=True)
        texts = ", ".join(f"step {step}: {value:.1f} ± {error:.1f}" for step, value, error in curve)
        if steps == (0,):
            line = axes.axhline(values[0], color=look.colour, linestyle="--", label=method.name)
            axes.axhspan(values[0] - errors[0], values[0] + errors[0], color=look.colour, alpha=0.12, linewidth=0)
        else:
            (line,) = axes.plot(
                steps, values, linestyle=look.line, color=look.colour, marker=look.marker, label=method.name
            )
            axes.errorbar(steps, values, errors, linestyle="", color=look.colour, capsize=3, alpha=0.6)
        set_tooltip(line, f"{method.name}: {texts}")
    name_axes(axes, f"training step, from {model}, on {bench}", "Average@n, %")
    legend_above(axes, len(methods))


def curves(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], name: str) -> None:
    """A metric over training, a line for each run that has it."""
    for index, (run, points) in enumerate(curves.items()):
        if points:
            look = look_of(run, index)
            axes.plot(*zip(*points, strict=True), linestyle=look.line, color=look.colour, linewidth=1.3, label=run)
            _add_tooltips(axes, run, points, look.colour)
    values = [value for points in curves.values() for _, value in points]
    if min(values) > 0 and max(values) > _LOG_RATIO * min(values):
        axes.set_yscale("log")
    if min(values) == max(values):  # matplotlib would choose a tiny range around the value
        axes.set_ylim(*sorted((0.0, 2 * values[0] or 1.0)))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter("{x:g}")  # matplotlib would write a common factor where the legend is
    name_axes(axes, "training step", name)
    legend_above(axes, sum(map(bool, curves.values())))


def _add_tooltips(axes: Axes, run: str, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Adds invisible marks with tooltips along a curve, enough of them that the pointer finds one."""
    every = -(-len(points) // _TOOLTIPS)
    for step, value in points[::-every]:
        (mark,) = axes.plot([step], [value], color=colour, marker="o", markersize=5, alpha=0, label="_nolegend_")
        set_tooltip(mark, f"{run}, step {step:g}: {value:.4g}")


def legend_above(axes: Axes, entries: int) -> None:
    """Adds a legend above the chart, if anything has a label."""
    if not axes.get_legend_handles_labels()[0]:
        return  # a single run without a name
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(3, entries), frameon=False, fontsize=9)


CAPTIONS = {
    "pass at k": "pass@k: the share of problems that k samples solve at least once. A curve that rises faster than "
    "another belongs to samples that differ more.",
    "right by length": "The share of right samples by length, at each part's median length. All runs have the same "
    "parts; parts with fewer than five samples are left out.",
    "lengths": "Tokens of right (filled) and wrong (open) samples: the median, and the middle half.",
}
_LENGTH_PARTS = 6  # parts of the range of lengths, with equal numbers of samples
_FEWEST = 5  # samples in a part, or for a median


def sample_panels(results: Sequence[SavedEvaluation]) -> dict[str, Callable[[Axes], None]]:
    """Name -> chart of the samples of one benchmark's evaluations, as far as samples are known."""
    drawn = [result for result in results if result.samples]
    panels: dict[str, Callable[[Axes], None]] = {}
    if any(passes(result) for result in drawn):
        panels["pass at k"] = partial(draw_passes, results=drawn)
    if len({sample.tokens for result in drawn for sample in all_samples(result)}) > _LENGTH_PARTS:
        panels["right by length"] = partial(draw_right_by_length, results=drawn)
        panels["lengths"] = partial(draw_lengths, results=drawn)
    return panels


def all_samples(result: SavedEvaluation) -> list[SavedSample]:
    return [sample for samples in result.samples.values() for sample in samples]


def passes(result: SavedEvaluation) -> list[tuple[int, float]]:
    """(k, pass@k) for each k; empty for a single sample a problem, or different numbers of samples."""
    counts = {len(samples) for samples in result.samples.values()}
    n = min(counts)
    if len(counts) > 1 or n < 2:
        return []
    correct = [sum(sample.correct for sample in samples) for samples in result.samples.values()]
    return [(k, pass_at_k(correct, n, k)) for k in range(1, n + 1)]


def right_by_length(results: Sequence[SavedEvaluation]) -> list[list[tuple[float, float, int]]]:
    """For each result (median length, share of right samples, number of samples) by part of the lengths."""
    edges = quantiles([s.tokens for result in results for s in all_samples(result)], n=_LENGTH_PARTS)
    by_result = []
    for result in results:
        parts: list[list[SavedSample]] = [[] for _ in range(_LENGTH_PARTS)]
        for sample in all_samples(result):
            parts[sum(sample.tokens > edge for edge in edges)].append(sample)
        full = [part for part in parts if len(part) >= _FEWEST]
        by_result.append([(median(s.tokens for s in p), sum(s.correct for s in p) / len(p), len(p)) for p in full])
    return by_result


def draw_passes(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """pass@k of each result over k."""
    for index, result in enumerate(results):
        if points := passes(result):
            _line(axes, index, result.name, [(k, 100 * share, f"pass@{k} {100 * share:.1f} %") for k, share in points])
    axes.set_xscale("log", base=2)
    most = max(k for result in results for k, _ in passes(result))
    ticks = [2**power for power in range(most.bit_length())]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    name_axes(axes, "samples of a problem, k", "pass@k, %")
    legend_above(axes, len(results))


def draw_right_by_length(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """The share of right samples over their length."""
    for index, (result, points) in enumerate(zip(results, right_by_length(results), strict=True)):
        texts = [
            (x, 100 * y, f"about {x:,.0f} tokens: {100 * y:.1f} % of {count} samples right") for x, y, count in points
        ]
        if texts:
            _line(axes, index, result.name, texts)
    axes.set_ylim(0, 105)
    name_axes(axes, "tokens of a sample", "right, %")
    legend_above(axes, len(results))


def draw_lengths(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """The lengths of right and of wrong samples of each result, one below the other."""
    for index, result in enumerate(results):
        for right in (True, False):
            tokens = [sample.tokens for sample in all_samples(result) if sample.correct == right]
            if len(tokens) < _FEWEST:
                continue
            low, middle, high = quantiles(tokens, n=4)
            y, colour = index + (-0.15 if right else 0.15), look_of(result.name, index).colour
            axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
            face = colour if right else "white"
            (mark,) = axes.plot([middle], [y], color=colour, marker="o", markerfacecolor=face)
            kind = "right" if right else "wrong"
            text = (
                f"{result.name}, {len(tokens)} {kind}: median {middle:,.0f} tokens, half from {low:,.0f} to {high:,.0f}"
            )
            set_tooltip(mark, text)
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    name_axes(axes, "tokens of a sample", "")


def _line(axes: Axes, index: int, name: str, points: Sequence[tuple[float, float, str]]) -> None:
    """A line through points (x, y, text), each with its text as a tooltip."""
    look = look_of(name, index)
    xs, ys, texts = zip(*points, strict=True)
    axes.plot(xs, ys, color=look.colour, linestyle=look.line, linewidth=1.3, label=name)
    for x, y, text in zip(xs, ys, texts, strict=True):
        (mark,) = axes.plot([x], [y], color=look.colour, marker=look.marker, markersize=4)
        set_tooltip(mark, f"{name}: {text}")
