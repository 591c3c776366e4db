"""Charts of what other papers show of a model, beside the flow. docs/figures.md says how to read them."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from phfcli.core.analysis.diagnose import LayerReport
from phfcli.core.analysis.readings.model_readings import AttentionReadings, LensReadings, OutputReadings
from phfcli.core.printable import printable
from phfcli.core.reporting.flow_charts import (
    LINE,
    MARKERS,
    ORANGE,
    SERIES,
    at_step,
    cells,
    from_zero,
    name_axes,
    tell,
    title,
)

_LETTERS = 5  # of a word in a cell


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


def model_panels(report: LayerReport) -> dict[str, Callable[[Axes], None]]:
    """What is drawn of a model's own readings; nothing where there are none."""
    if report.model is None:
        return {}
    outputs, lens, attention = report.model.outputs, report.model.lens, report.model.attention
    more: dict[str, Callable[[Axes], None]] = {}
    if attention is not None:
        shadow, last = f"block {lens.shadow}, the shadow", f"block {len(lens.entropy)}, the last"
        more["attention of the shadow"] = lambda axes: attention_map(axes, attention, attention.shadow_map, shadow)
        more["attention of the last"] = lambda axes: attention_map(axes, attention, attention.last_map, last)
    gradients = report.model.gradients
    if gradients is not None:
        more["gradients"] = lambda axes: gradient_norms(axes, gradients)
    return {
        "overlap": lambda axes: overlap(axes, outputs),
        "output entropies": lambda axes: output_entropies(axes, outputs),
        "lens entropy": lambda axes: lens_entropy(axes, lens),
        "lens agreement": lambda axes: lens_agreement(axes, lens),
        "lens words": lambda axes: lens_words(axes, lens),
        **more,
    }


def overlap(axes: Axes, outputs: OutputReadings) -> None:
    """The likeliest words that both readers share, along the rollout (OPRD, figure 10)."""
    shares = [None if share is None else 100 * share for share in outputs.overlap_along]
    _along(axes, shares, f"top {outputs.top}", 0)
    mean = 100 * outputs.overlap
    axes.axhline(mean, color=ORANGE, linestyle="--", label=f"all tokens, {mean:.1f} %")
    axes.set_ylim(0, 105)
    name_axes(axes, "along the rollout, to %", "in common, %")
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{outputs.top} likeliest words of both readers")


def output_entropies(axes: Axes, outputs: OutputReadings) -> None:
    """Both readers' entropies along the rollout (OPRD, figure 11)."""
    _along(axes, outputs.entropy_student_along, f"student, mean {outputs.entropy_student:.3f}", 0)
    _along(axes, outputs.entropy_teacher_along, f"teacher, mean {outputs.entropy_teacher:.3f}", 1)
    from_zero(axes)
    name_axes(axes, "along the rollout, to %", "entropy, nats a token")
    axes.legend(frameon=False, fontsize=9)
    title(axes, "both readers' uncertainty")


def lens_entropy(axes: Axes, lens: LensReadings) -> None:
    """The entropy of each block's own prediction; the marked one is OISD's shadow (figure 5)."""
    _by_depth(axes, lens.entropy, "entropy", 0)
    shadow = lens.entropy[lens.shadow - 1]
    label = f"shadow, block {lens.shadow}: {shadow:.3f}"
    axes.plot([lens.shadow], [shadow], color=ORANGE, marker="D", linestyle="", markersize=9, label=label)
    from_zero(axes)
    name_axes(axes, "decoder block", "entropy, nats a token")
    axes.legend(frameon=False, fontsize=9)
    title(axes, "logit lens: how open each block's prediction is")


def lens_agreement(axes: Axes, lens: LensReadings) -> None:
    """How far each block's prediction is from the last one's (OISD, figures 2 and 7)."""
    _by_depth(axes, lens.agreement, "the same likeliest word", 0)
    _by_depth(axes, lens.divergence, "jsd, nats", 1)
    from_zero(axes)
    name_axes(axes, "decoder block", "beside the last block")
    axes.legend(frameon=False, fontsize=9)
    title(axes, "logit lens: agreement with the last block")


def lens_words(axes: Axes, lens: LensReadings) -> None:
    """The likeliest word of each block in the place of each word; framed where it is the last block's (figure 7)."""
    for row, words in enumerate(lens.likeliest):
        for column, word in enumerate(words):
            same = word == lens.likeliest[-1][column]
            axes.text(column, row, printable(word)[:_LETTERS], ha="center", va="center", fontsize=7)
            edge = SERIES[0] if same else LINE
            cell = Rectangle((column - 0.45, row - 0.4), 0.9, 0.8, fill=False, edgecolor=edge, linewidth=1.2)
            tell(axes.add_patch(cell), f"block {row + 1}, for {lens.words[column]!r}: {word!r}")
    axes.set(xlim=(-0.5, len(lens.words) - 0.5), ylim=(-0.5, len(lens.likeliest) - 0.5))
    axes.set_xticks(range(len(lens.words)), [printable(word)[:_LETTERS] for word in lens.words], fontsize=7)
    places = range(0, len(lens.likeliest), max(1, len(lens.likeliest) // 9))
    axes.set_yticks(places, [str(place + 1) for place in places])
    name_axes(axes, "written", "decoder block")
    title(axes, "logit lens: likeliest words")


def attention_map(axes: Axes, attention: AttentionReadings, rows: Sequence[Sequence[float]], name: str) -> None:
    """What each query of the first rollout looks at, mean over heads (OISD, figure 6)."""
    parts = len(rows[0])
    edges = [str(round(100 * (part + 1) / parts)) for part in range(parts)]
    queries = list(map(str, attention.columns))
    cells(axes, rows, queries, edges, lambda row, column: f"at {queries[row]}, to {edges[column]} %")
    name_axes(axes, "tokens of prompt and rollout, to %", "column of the query")
    title(axes, f"attention of {name}")


def gradient_norms(axes: Axes, gradients: Mapping[str, float]) -> None:
    """The norm of each loss term's gradient (OISD, figure 9)."""
    bars = axes.barh(list(gradients), list(gradients.values()), color=SERIES[0])
    for (name, norm), bar in zip(gradients.items(), bars, strict=True):
        tell(bar, f"{name}: {norm:.4g}")
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_xlim(0, 1.2 * max(*gradients.values(), 1e-12))
    axes.invert_yaxis()
    name_axes(axes, "norm of the gradient, with the term's weight", "")
    title(axes, "gradient of each loss term")


def _along(axes: Axes, values: Sequence[float | None], label: str, place: int) -> None:
    """A line over the parts of the rollout that have a value."""
    parts = [(100 * (part + 1) / len(values), value) for part, value in enumerate(values)]
    _line(axes, [(x, y, f"to {x:.0f} % {y:.3g}") for x, y in parts if y is not None], label, place)


def _by_depth(axes: Axes, values: Sequence[float], label: str, place: int) -> None:
    _line(axes, [(layer, value, f"block {layer} {value:.3g}") for layer, value in enumerate(values, 1)], label, place)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _line(axes: Axes, points: Sequence[tuple[float, float, str]], label: str, place: int) -> None:
    """A line that tells what each of its points says."""
    xs, ys, told = zip(*points, strict=True)
    (line,) = axes.plot(xs, ys, color=SERIES[place], marker=MARKERS[place], label=label)
    tell(line, f"{label}: {', '.join(told)}")
