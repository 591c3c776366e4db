"""The page of a probe, with its charts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from phfcli.core.analysis.probe import ProbeReport
from phfcli.core.analysis.probe_tokens import FIRST_TOKENS, FORKS, KINDS, ContextFinding
from phfcli.core.errors import percent, points, printable
from phfcli.core.losses.positions import ENTROPY_EDGES
from phfcli.core.reporting.flow_charts import BLUE, GREY, INK, SERIES, from_zero, name_axes, set_tooltip
from phfcli.core.reporting.inline_svg import inline_svg
from phfcli.core.reporting.page_parts import Figure, render_page, sortable
from phfcli.core.reporting.tables import ResultTable
from phfcli.core.runs.folder import now
from phfcli.core.storage.files import write_text
from phfcli.core.version import __version__


def context_scores(axes: Axes, report: ProbeReport) -> None:
    """The share of right answers, plain and with each context, with the standard error over problems."""
    rows = [("plain", report.plain.average, report.plain.stderr)]
    rows += [(context.name, context.score, context.stderr) for context in report.contexts if context.score is not None]
    names, values = [name for name, _, _ in rows], [100 * value for _, value, _ in rows]
    errors = [100 * (error or 0) for _, _, error in rows]
    bars = axes.barh(names, values, color=[GREY, *[BLUE] * (len(rows) - 1)])
    axes.errorbar(values, names, xerr=errors, linestyle="", color=INK, capsize=3, linewidth=1)
    for name, value, error, bar in zip(names, values, errors, bars, strict=True):
        set_tooltip(bar, f"{name}: {value:.1f} ± {error:.1f} %")
    axes.set_xlim(0, 105)
    axes.invert_yaxis()
    name_axes(axes, "right, %", "")


def by_position(axes: Axes, report: ProbeReport) -> None:
    """The divergence along the rollout with each context."""
    for index, context in enumerate(report.contexts):
        edges = [100 * (part + 1) / len(context.by_position) for part in range(len(context.by_position))]
        _line(axes, context, edges, context.by_position, index)
    _finish(axes, "along the rollout, %")


def by_entropy(axes: Axes, report: ProbeReport) -> None:
    """The divergence by the student's entropy with each context."""
    levels = range(len(ENTROPY_EDGES) + 1)
    for index, context in enumerate(report.contexts):
        _line(axes, context, levels, context.by_entropy, index)
    axes.set_xticks(list(levels), ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)])
    _finish(axes, "entropy of the student from ... on, nats")


def tokens_by_entropy(axes: Axes, report: ProbeReport) -> None:
    """The distribution of the student's entropy over tokens."""
    shares = [100 * share for share in report.entropy.tokens_by_level]
    labels = ["0", *(f"{edge:g}" for edge in ENTROPY_EDGES)]
    bars = axes.bar(labels, shares, color=BLUE)
    for label, share, bar in zip(labels, shares, bars, strict=True):
        set_tooltip(bar, f"from {label} nats: {share:.1f} %")
    name_axes(axes, "entropy of the student from ... on, nats", "tokens, %")


def _line(axes: Axes, context: ContextFinding, xs: Sequence[float], values: Sequence[float], index: int) -> None:
    (line,) = axes.plot(xs, values, color=SERIES[index % len(SERIES)], marker=".", label=context.name)
    set_tooltip(line, f"{context.name}: " + ", ".join(f"{value:.3g}" for value in values))


def _finish(axes: Axes, x: str) -> None:
    from_zero(axes)
    name_axes(axes, x, "divergence, nats a token")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)


_SCORES = "Share of right answers: plain (grey), and as the teacher with each context; standard error over problems."
_DIVERGENCE_CHARTS = {
    by_position: "Divergence of teacher and student along the rollout.",
    by_entropy: "Divergence by the student's entropy. Ranges without a token are 0.",
    tokens_by_entropy: "The student's entropy: the share of its tokens in each range.",
}
_SIGNS = {"good": "for training", "bad": "against training", "note": "to know", "cannot tell": "cannot tell"}


def write_probe(path: Path, report: ProbeReport) -> None:
    """Writes the page of a probe: one HTML file that needs no network."""
    about = report.about
    context = {
        "title": f"What {printable(about['target'])} can learn from its context",
        "looked_at": f"{about['problems']} problems of {printable(about['data'])}, {about['samples']} rollouts each.",
        "version": __version__,
        "created": now(),
        "sentences": sortable(
            ResultTable(
                "Each sentence follows the rule beside it",
                ["finding", "rule", "speaks"],
                [[sentence.text, sentence.rule, _SIGNS[sentence.holds]] for sentence in report.readings],
                text=("finding", "rule", "speaks"),
            )
        ),
        "contexts": sortable(context_table(report)),
        "scores": [_figure(context_scores, _SCORES, report)],
        "places": [_figure(chart, caption, report) for chart, caption in _DIVERGENCE_CHARTS.items()],
        "kinds": sortable(_kind_table(report.contexts)),
        "entropy": sortable(_entropy_table(report)),
    }
    write_text(path, render_page("probe.html", context))


def context_table(report: ProbeReport) -> ResultTable:
    """The table of contexts, for the page and for the terminal."""
    columns = [
        *("shown", "right %", "gain", "from", "to", "nats", "on right", "on wrong"),
        *(f"first {FIRST_TOKENS}", "forks", "clipped"),
    ]
    title = (
        "The teacher's contexts: its score, its gain in points with the 95% interval, its divergence on the student's"
        f" rollouts in nats a token, and the shares of the divergence in % in the first {FIRST_TOKENS} tokens, in the"
        f" {FORKS:.0%} of the highest entropy (forks), and removed by the clip"
    )
    plain = ["(plain)", percent(report.plain.average), *["-"] * (len(columns) - 2)]
    rows = [
        [
            *(printable(context.name), percent(context.score), *_gain_cells(context)),
            *map(_nats, (context.divergence, context.right, context.wrong)),
            *map(percent, (context.first_share, context.fork_share, context.clip_share)),
        ]
        for context in report.contexts
    ]
    return ResultTable(title, columns, [plain, *rows], text=("shown",))


def _kind_table(contexts: Sequence[ContextFinding]) -> ResultTable:
    rows = []
    for kind in KINDS:
        share = max((context.by_kind[kind][1] for context in contexts if kind in context.by_kind), default=None)
        if share is not None:
            values = [context.by_kind[kind][0] if kind in context.by_kind else None for context in contexts]
            rows.append([kind, percent(share), *map(_nats, values)])
    names = [printable(context.name) for context in contexts]
    return ResultTable("Nats a token by kind of token", ["kind", "of the tokens %", *names], rows, text=("kind",))


def _entropy_table(report: ProbeReport) -> ResultTable:
    entropy = report.entropy
    cells = [entropy.mean, entropy.right, entropy.wrong, entropy.fork_above]
    columns = ["all", "right rollouts", "wrong rollouts", f"forks (top {FORKS:.0%}) from"]
    return ResultTable("Entropy of the student, nats a token", columns, [[_nats(cell) for cell in cells]], text=())


def _figure(chart: Callable[..., None], caption: str, report: ProbeReport) -> Figure:
    return Figure(inline_svg(partial(chart, report=report), caption, chart.__name__.replace("_", "-")), caption)


def _gain_cells(context: ContextFinding) -> list[str]:
    gain = context.gain
    bounds = [None] * 3 if gain is None else [gain.difference, gain.low, gain.high]
    return [points(bound) for bound in bounds]


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
