"""The charts of scores: averages, differences, and samples."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median, quantiles

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.analysis.methods import Method
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, SavedSample
from phfcli.core.evaluation.scores import pass_at_k
from phfcli.core.reporting.flow_charts import BLUE, INK, LINE, MARKERS, SERIES, name_axes, tell, title

STYLES = ("-", "--", "-.", ":")  # so that lines are told apart in grey, too

_DECADES = 100  # of the largest over the smallest value, from which on a curve has a logarithmic scale
_TOLD = 25  # points of a curve that tell their value

Point = tuple[Method, str, int, float, float | None]  # benchmark, step, score, its error


def scores(axes: Axes, comparison: Comparison, model: str) -> None:
    """Table 1: Average@n of a model's methods on each benchmark, with the error over problems."""
    benches = comparison.benches
    methods = [method for method in comparison.methods if method.model == model]
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        own = [bench for bench in benches if bench in method.benches]
        xs = [benches.index(bench) + (place - (len(methods) - 1) / 2) * width for bench in own]
        values = [method.average(bench) for bench in own]
        heights, errors = [100 * value for value, _ in values], [100 * (error or 0) for _, error in values]
        bars = axes.bar(xs, heights, 0.92 * width, label=method.name, color=SERIES[place % len(SERIES)])
        for x, height, error in zip(xs, heights, errors, strict=True):
            axes.text(x, height + error + 1, f"{height:.1f}", ha="center", va="bottom", fontsize=8, color=INK)
        axes.errorbar(xs, heights, errors, linestyle="", color=INK, capsize=3, linewidth=1)
        for bench, height, error, bar in zip(own, heights, errors, bars, strict=True):
            tell(bar, f"{method.name}, {bench}: {height:.1f} ± {error:.1f} %")
    axes.set_xticks(range(len(benches)), benches)
    axes.set_ylim(0, 100)
    name_axes(axes, "", "Average@n, %")
    legend_above(axes, len(methods))


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
    units = " and ".join(dict.fromkeys(pair.measured.unit for pair in pairs))
    name_axes(axes, f"points, with 95% interval over {units}", "")
    title(axes, "differences between runs")


def variants(axes: Axes, comparison: Comparison) -> None:
    """Table 2: the mean over the benchmarks of each variant, a marker for each model."""
    names = list(dict.fromkeys(method.name for method in comparison.methods))
    for place, model in enumerate(comparison.models):
        for method in comparison.methods:
            suite = method.suite(comparison.benches) if method.model == model else None
            if suite is None:
                continue
            value, error = 100 * suite[0], 100 * (suite[1] or 0)
            y = names.index(method.name) + 0.15 * (place - (len(comparison.models) - 1) / 2)
            axes.errorbar([value], [y], xerr=[error], color=SERIES[place], capsize=3)
            label = model if method.name == names[0] else None
            (mark,) = axes.plot([value], [y], color=SERIES[place], marker=MARKERS[place], linestyle="", label=label)
            tell(mark, f"{method.name}, {model}: {value:.1f} ± {error:.1f} %")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    name_axes(axes, f"Average@n of {' + '.join(comparison.benches)}, %", "")
    legend_above(axes, len(comparison.models))


def trajectory(axes: Axes, points: Sequence[Point], model: str, bench: str) -> None:
    """Figure 2: the score of each method over training, with the error over problems; what is untrained is a line."""
    methods = {id(method): method for method, at, *_ in points if (method.model, at) == (model, bench)}
    for place, method in enumerate(methods.values()):
        own = [
            (step, 100 * score, 100 * (error or 0)) for a, b, step, score, error in points if a is method and b == bench
        ]
        colour = SERIES[place % len(SERIES)]
        steps, values, errors = zip(*own, strict=True)
        told = ", ".join(f"step {step}: {value:.1f} ± {error:.1f}" for step, value, error in own)
        if steps == (0,):
            line = axes.axhline(values[0], color=colour, linestyle="--", label=method.name)
            axes.axhspan(values[0] - errors[0], values[0] + errors[0], color=colour, alpha=0.12, linewidth=0)
        else:
            marker = MARKERS[place % len(MARKERS)]
            style = STYLES[place % len(STYLES)]
            (line,) = axes.plot(steps, values, linestyle=style, color=colour, marker=marker, label=method.name)
            axes.errorbar(steps, values, errors, linestyle="", color=colour, capsize=3, alpha=0.6)
        tell(line, f"{method.name}: {told}")
    name_axes(axes, "training step", "Average@n, %")
    legend_above(axes, len(methods))


def curves(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], name: str) -> None:
    """A metric over training, a line for each run that has it; a run keeps its colour from metric to metric."""
    for place, (run, points) in enumerate(curves.items()):
        if points:
            colour, style = SERIES[place % len(SERIES)], STYLES[place % len(STYLES)]
            axes.plot(*zip(*points, strict=True), linestyle=style, color=colour, linewidth=1.3, label=run)
            _tell_points(axes, run, points, colour)
    values = [value for points in curves.values() for _, value in points]
    if min(values) > 0 and max(values) > _DECADES * min(values):
        axes.set_yscale("log")
    if min(values) == max(values):  # a range of its own would be made of tiny numbers around it
        axes.set_ylim(*sorted((0.0, 2 * values[0] or 1.0)))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_formatter("{x:g}")  # a common factor would stand where the legend is
    name_axes(axes, "training step", name)
    legend_above(axes, sum(map(bool, curves.values())))


def _tell_points(axes: Axes, run: str, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Unseen marks along a curve that tell its values, so many that pointing near it finds one."""
    every = -(-len(points) // _TOLD)
    for step, value in points[::-every]:
        (mark,) = axes.plot([step], [value], color=colour, marker="o", markersize=5, alpha=0, label="_nolegend_")
        tell(mark, f"{run}, step {step:g}: {value:.4g}")


def legend_above(axes: Axes, entries: int) -> None:
    """A legend above the chart; none where nothing has a name."""
    if not axes.get_legend_handles_labels()[0]:
        return  # a single run without a name
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(3, entries), frameon=False, fontsize=9)


CAPTIONS = {
    "pass at k": "pass@k: the share of problems that k samples solve at least once. Where a curve rises faster than "
    "another, its samples differ more.",
    "right by length": "The share of right samples among those of like length, at each part's middle length. All runs "
    "have the same parts, and parts with fewer than five samples are left out.",
    "lengths": "Tokens of right (filled) and wrong (open) samples: the median, and the middle half.",
}
_PARTS = 6  # of the lengths
_FEWEST = 5  # samples of a part or of a median


def sample_panels(results: Sequence[SavedEvaluation]) -> dict[str, Callable[[Axes], None]]:
    """The panels of one benchmark's evaluations, as far as their samples are there."""
    drawn = [result for result in results if result.samples]
    panels: dict[str, Callable[[Axes], None]] = {}
    if any(passes(result) for result in drawn):
        panels["pass at k"] = partial(draw_passes, results=drawn)
    if len({sample.tokens for result in drawn for sample in all_samples(result)}) > _PARTS:
        panels["right by length"] = partial(draw_right_by_length, results=drawn)
        panels["lengths"] = partial(draw_lengths, results=drawn)
    return panels


def all_samples(result: SavedEvaluation) -> list[SavedSample]:
    return [sample for own in result.samples.values() for sample in own]


def passes(result: SavedEvaluation) -> list[tuple[int, float]]:
    """(k, pass@k) for each k; none for a single sample a problem, or where problems have more samples than others."""
    counts = {len(own) for own in result.samples.values()}
    n = min(counts)
    if len(counts) > 1 or n < 2:
        return []
    correct = [sum(sample.correct for sample in own) for own in result.samples.values()]
    return [(k, pass_at_k(correct, n, k)) for k in range(1, n + 1)]


def right_by_length(results: Sequence[SavedEvaluation]) -> list[list[tuple[float, float, int]]]:
    """Of each result, by part of the lengths: (its middle length, the share of right samples, their number)."""
    edges = quantiles([s.tokens for result in results for s in all_samples(result)], n=_PARTS)
    found = []
    for result in results:
        parts: list[list[SavedSample]] = [[] for _ in range(_PARTS)]
        for sample in all_samples(result):
            parts[sum(sample.tokens > edge for edge in edges)].append(sample)
        full = [part for part in parts if len(part) >= _FEWEST]
        found.append([(median(s.tokens for s in p), sum(s.correct for s in p) / len(p), len(p)) for p in full])
    return found


def draw_passes(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """pass@k of each result over k."""
    for place, result in enumerate(results):
        if points := passes(result):
            _line(axes, place, result.name, [(k, 100 * share, f"pass@{k} {100 * share:.1f} %") for k, share in points])
    axes.set_xscale("log", base=2)
    most = max(k for result in results for k, _ in passes(result))
    ticks = [2**power for power in range(most.bit_length())]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    name_axes(axes, "samples of a problem, k", "pass@k, %")
    legend_above(axes, len(results))


def draw_right_by_length(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """The share of right samples over their length."""
    for place, (result, points) in enumerate(zip(results, right_by_length(results), strict=True)):
        told = [
            (x, 100 * y, f"about {x:,.0f} tokens: {100 * y:.1f} % of {count} samples right") for x, y, count in points
        ]
        if told:
            _line(axes, place, result.name, told)
    axes.set_ylim(0, 105)
    name_axes(axes, "tokens of a sample", "right, %")
    legend_above(axes, len(results))


def draw_lengths(axes: Axes, results: Sequence[SavedEvaluation]) -> None:
    """The lengths of right and of wrong samples of each result, one below the other."""
    for place, result in enumerate(results):
        for right in (True, False):
            tokens = [sample.tokens for sample in all_samples(result) if sample.correct == right]
            if len(tokens) < _FEWEST:
                continue
            low, middle, high = quantiles(tokens, n=4)
            y, colour = place + (-0.15 if right else 0.15), SERIES[place % len(SERIES)]
            axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
            face = colour if right else "white"
            (mark,) = axes.plot([middle], [y], color=colour, marker="o", markerfacecolor=face)
            kind = "right" if right else "wrong"
            told = (
                f"{result.name}, {len(tokens)} {kind}: median {middle:,.0f} tokens, half from {low:,.0f} to {high:,.0f}"
            )
            tell(mark, told)
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)
    name_axes(axes, "tokens of a sample", "")


def _line(axes: Axes, place: int, name: str, points: Sequence[tuple[float, float, str]]) -> None:
    """A line through points that each tell their value."""
    colour = SERIES[place % len(SERIES)]
    xs, ys, told = zip(*points, strict=True)
    axes.plot(xs, ys, color=colour, linestyle=STYLES[place % len(STYLES)], linewidth=1.3, label=name)
    for x, y, text in zip(xs, ys, told, strict=True):
        (mark,) = axes.plot([x], [y], color=colour, marker=MARKERS[place % len(MARKERS)], markersize=4)
        tell(mark, f"{name}: {text}")
