"""The page of a probe, with its charts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from phfcli.core.analysis.probe import ProbeReport
from phfcli.core.analysis.probe_tokens import FIRST_TOKENS, FORKS, KINDS, ContextFinding
from phfcli.core.errors import percent, points, printable
from phfcli.core.losses.positions import ENTROPY_EDGES
from phfcli.core.reporting.flow_charts import BLUE, GREY, INK, SERIES, from_zero, name_axes, tell
from phfcli.core.reporting.inline_svg import inline_svg
from phfcli.core.reporting.page_parts import Figure, render_page, sortable
from phfcli.core.reporting.tables import ResultTable
from phfcli.core.runs.folder import now
from phfcli.core.storage.files import write_text
from phfcli.core.version import __version__


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


_SCORES = "What the model solves plain (grey) and as the teacher under each context, with the error over problems."
_PLACES = {
    by_position: "Divergence along the rollout: where a context moves the teacher away from the student.",
    by_entropy: "Divergence by the student's own uncertainty. Parts without a token are 0.",
    tokens_by_entropy: "How uncertain the student is: the share of its tokens from each entropy on.",
}
_SIGNS = {"good": "for training", "bad": "against training", "note": "to know"}


def write_probe(path: Path, report: ProbeReport) -> None:
    """Writes the page, one file without network."""
    about, verdict = report.about, report.verdict
    context = {
        "title": f"What {printable(about['target'])} can learn from its context",
        "looked_at": f"{about['problems']} problems of {printable(about['data'])}, {about['samples']} rollouts each.",
        "version": __version__,
        "created": now(),
        "outcome": verdict.outcome,
        "advice": verdict.sentences[-1].text,
        "sentences": sortable(
            ResultTable(
                "Each sentence follows the rule beside it",
                ["finding", "rule", "speaks"],
                [[each.text, each.rule, _SIGNS[each.holds]] for each in verdict.sentences],
            )
        ),
        "contexts": sortable(context_table(report)),
        "scores": [_figure(context_scores, _SCORES, report)],
        "places": [_figure(chart, caption, report) for chart, caption in _PLACES.items()],
        "kinds": sortable(_kind_table(report.contexts)),
        "entropy": sortable(_entropy_table(report)),
    }
    write_text(path, render_page("probe.html", context))


def context_table(report: ProbeReport) -> ResultTable:
    """A row for each context; also what the terminal shows."""
    columns = [
        *("shown", "right %", "gain", "from", "to", "nats", "on right", "on wrong"),
        *(f"first {FIRST_TOKENS}", "forks", "clipped"),
    ]
    title = (
        "What the teacher is shown: what it solves then, its gain in points with the 95% interval, and on the student's"
        f" rollouts its nats a token, and the shares in % of these in the first {FIRST_TOKENS} tokens, in the most"
        f" uncertain {FORKS:.0%} (forks), and that the clip takes"
    )
    plain = ["(plain)", percent(report.plain.average), *["-"] * (len(columns) - 2)]
    rows = [
        [
            *(printable(own.name), percent(own.score), *_gain_cells(own)),
            *map(_nats, (own.divergence, own.right, own.wrong)),
            *map(percent, (own.first_share, own.fork_share, own.clip_share)),
        ]
        for own in report.contexts
    ]
    return ResultTable(title, columns, [plain, *rows])


def _kind_table(contexts: Sequence[ContextFinding]) -> ResultTable:
    rows = []
    for kind in KINDS:
        share = max((own.by_kind[kind][1] for own in contexts if kind in own.by_kind), default=None)
        if share is not None:
            values = [own.by_kind[kind][0] if kind in own.by_kind else None for own in contexts]
            rows.append([kind, percent(share), *map(_nats, values)])
    names = [printable(own.name) for own in contexts]
    return ResultTable("Nats a token by kind of token", ["kind", "of the tokens %", *names], rows)


def _entropy_table(report: ProbeReport) -> ResultTable:
    own = report.entropy
    cells = [own.mean, own.right, own.wrong, own.fork_above]
    columns = ["all", "right rollouts", "wrong rollouts", f"forks (top {FORKS:.0%}) from"]
    return ResultTable("Entropy of the student, nats a token", columns, [[_nats(cell) for cell in cells]])


def _figure(chart: Callable[..., None], caption: str, report: ProbeReport) -> Figure:
    return Figure(inline_svg(partial(chart, report=report), caption, chart.__name__.replace("_", "-")), caption)


def _gain_cells(own: ContextFinding) -> list[str]:
    bounds = [None] * 3 if own.gain is None else [own.gain.difference, own.gain.low, own.gain.high]
    return [points(bound) for bound in bounds]


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
