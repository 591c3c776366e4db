"""Charts of samples: pass@k, and how length goes with being right. docs/figures.md says how to read them."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles

from matplotlib.axes import Axes

from phfcli.core.evaluation.pass_at_k import pass_at_k
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, SavedSample
from phfcli.core.reporting.flow_charts import MARKERS, SERIES, name_axes, tell
from phfcli.core.reporting.score_charts import STYLES, legend_above

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
