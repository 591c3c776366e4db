"""Charts of a probe. docs/probe.md says how to read them."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from phfcli.core.analysis.probe.context_findings import ContextFinding
from phfcli.core.analysis.probe.run import ProbeReport
from phfcli.core.losses.token_parts import ENTROPY_EDGES
from phfcli.core.reporting.flow_charts import BLUE, GREY, INK, SERIES, from_zero, name_axes, tell


def context_scores(axes: Axes, report: ProbeReport) -> None:
    """What the model solves plain and under each context, with the error over problems."""
    rows = [("plain", report.plain.average, report.plain.stderr)]
    rows += [(own.name, own.score, own.stderr) for own in report.contexts if own.score is not None]
    names, values = [name for name, _, _ in rows], [100 * value for _, value, _ in rows]
    errors = [100 * (error or 0) for _, _, error in rows]
    bars = axes.barh(names, values, color=[GREY, *[BLUE] * (len(rows) - 1)])
    axes.errorbar(values, names, xerr=errors, linestyle="", color=INK, capsize=3, linewidth=1)
    for name, value, error, bar in zip(names, values, errors, bars, strict=True):
        tell(bar, f"{name}: {value:.1f} ± {error:.1f} %")
    axes.set_xlim(0, 105)
    axes.invert_yaxis()
    name_axes(axes, "right, %", "")


def by_position(axes: Axes, report: ProbeReport) -> None:
    """The divergence along the rollout under each context."""
    for place, own in enumerate(report.contexts):
        edges = [100 * (part + 1) / len(own.by_position) for part in range(len(own.by_position))]
        _line(axes, own, edges, own.by_position, place)
    _finish(axes, "along the rollout, %")


def by_entropy(axes: Axes, report: ProbeReport) -> None:
    """The divergence by the student's own uncertainty under each context."""
    levels = range(len(ENTROPY_EDGES) + 1)
    for place, own in enumerate(report.contexts):
        _line(axes, own, levels, own.by_entropy, place)
    axes.set_xticks(list(levels), ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)])
    _finish(axes, "entropy of the student from ... on, nats")


def tokens_by_entropy(axes: Axes, report: ProbeReport) -> None:
    """How many of the student's tokens are how uncertain."""
    shares = [100 * share for share in report.entropy.tokens_by_level]
    labels = ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)]
    bars = axes.bar(labels, shares, color=BLUE)
    for label, share, bar in zip(labels, shares, bars, strict=True):
        tell(bar, f"from {label} nats: {share:.1f} %")
    name_axes(axes, "entropy of the student from ... on, nats", "tokens, %")


def _line(axes: Axes, own: ContextFinding, xs: Sequence[float], values: Sequence[float], place: int) -> None:
    (line,) = axes.plot(xs, values, color=SERIES[place % len(SERIES)], marker=".", label=own.name)
    tell(line, f"{own.name}: " + ", ".join(f"{value:.3g}" for value in values))


def _finish(axes: Axes, x: str) -> None:
    from_zero(axes)
    name_axes(axes, x, "divergence, nats a token")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
