"""The charts of a study: scores over training, differences with their intervals, energy over depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from phfcli.core.evaluation.scores import standard_error
from phfcli.core.reporting.figures import Panel
from phfcli.core.reporting.flow_charts import BLUE, GREY, INK, MARKERS, ORANGE, SERIES, name_axes, title
from phfcli.core.studies.results import Difference, Results, Row
from phfcli.core.studies.study_file import BASE, Study

_SIZE = (5.6, 4.2)  # of a panel, in inches
_ROW = 0.22  # height of a system's row, in inches
_AROUND_ROWS = 0.8  # inches above and below the rows
_UNITS = "● seeds  ■ problems"
_STYLES = {"seeds": (BLUE, "o"), "problems": (ORANGE, "s")}
_MARGIN = 0.05  # of the scale, on both sides
_MOST_LINES = 20  # in a chart that stays readable


def panel_size(results: Results) -> tuple[float, float]:
    """Width and height of a panel in inches, with room for a row for each system."""
    most = max(len(results.of(row.model, row.bench)) for row in results.rows)
    return _SIZE[0], max(_SIZE[1], _ROW * most + _AROUND_ROWS)


def panels(study: Study, results: Results) -> list[Panel]:
    """The panels: for each model the scores on its first benchmark, the differences on each benchmark, and the energy.

    Scores are lines over training if several steps were evaluated. With very many systems only differences are drawn.
    """
    drawn: list[Panel] = []
    for model in study.models:
        first = results.systems(model)
        if first and len(first) <= _MOST_LINES:
            scores = _dynamics if len(study.evaluated) > 1 else _scores
            drawn.append(partial(scores, rows=first, named=len(study.models) > 1))
        for bench in results.benches(model):
            compared = [row for row in results.of(model, bench) if row.difference is not None]
            if compared:  # the baseline has been run
                drawn.append(partial(_differences, rows=compared, to=study.systems[study.baseline].title))
        energies = [row for row in first if row.energy]
        if energies:
            drawn.append(partial(_energy_over_depth, rows=energies))
    return drawn


def _scores(axes: Axes, rows: Sequence[Row], named: bool) -> None:
    """The final score of each system as a row; the score of the base model is a vertical line."""
    for y, row in enumerate(rows):
        mean = 100 * fmean(row.final)
        error, unit = row.error()
        colour, marker = _STYLES[unit]
        axes.errorbar([mean], [y], xerr=[100 * (error or 0)], color=colour, marker=marker, linewidth=2)
        axes.annotate(f"{mean:.1f}", (mean, y), (0, 4), textcoords="offset points", ha="center", fontsize=7)
        if row.system == BASE:
            axes.axvline(mean, color=GREY, linestyle=":", zorder=0)
    axes.set_yticks(range(len(rows)), [f"{row.title} ({len(row.final)})" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.8)
    name_axes(axes, f"Average, % ± error over\n{_UNITS}", "")
    step = max(row.last for row in rows)
    title(axes, f"{rows[0].bench} after {step} steps (seeds)" + (f", {rows[0].model}" if named else ""))


def _dynamics(axes: Axes, rows: Sequence[Row], named: bool) -> None:
    """The score of each system over training."""
    base = next((row for row in rows if row.system == BASE), None)
    for index, row in enumerate(row for row in rows if row.system != BASE):
        averages = ({0: base.final} if base else {}) | row.averages
        means = [100 * fmean(values) for values in averages.values()]
        errors = [100 * (standard_error(np.array(values)) or 0) for values in averages.values()]
        axes.errorbar(
            list(averages),
            means,
            errors,
            label=f"{row.title} ({len(row.final)})",
            color=SERIES[index % len(SERIES)],
            marker=MARKERS[index % len(MARKERS)],
            linestyle="-" if index < len(SERIES) else "--",
            markersize=4,
            capsize=2,
        )
    if base is not None:
        axes.axhline(100 * base.final[0], color=GREY, linestyle=":", label="base model")
    name_axes(axes, "training step", "Average, % ± standard error over seeds")
    bottom, top = axes.get_ylim()
    axes.set_ylim(top=top + 0.4 * (top - bottom))  # room for the legend above the lines
    axes.legend(frameon=False, fontsize=7, ncols=2, title="system (seeds)", title_fontsize=7, loc="upper left")
    title(axes, f"{rows[0].bench} over training" + (f", {rows[0].model}" if named else ""))


def _differences(axes: Axes, rows: Sequence[Row], to: str) -> None:
    """The difference of each system from the baseline, with its interval over seeds (blue) or problems (orange).

    The interval of two seeds is 13 standard errors wide on each side, so it does not determine the scale. An arrow
    marks an interval that ends outside of the chart.
    """
    intervals = [_interval(row.difference) for row in rows if row.difference is not None]
    ends = [end for interval in intervals if not interval.two_seeds for end in interval.ends]
    scale = [0.0, *ends, *(interval.value for interval in intervals)]
    margin = _MARGIN * (max(scale) - min(scale)) or 1.0  # all differences are zero, without intervals
    left, right = min(scale) - margin, max(scale) + margin
    for y, interval in enumerate(intervals):
        colour, marker = _STYLES[interval.unit]
        axes.plot(interval.ends, [y] * len(interval.ends), color=colour, linewidth=2)
        axes.plot([interval.value], [y], color=colour, marker=marker)
        for edge, arrow in ((left, "<"), (right, ">")):
            if interval.ends and interval.ends[0] < edge < interval.ends[1]:
                axes.plot([edge], [y], color=colour, marker=arrow, clip_on=False)
    axes.set_xlim(left, right)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    name_axes(axes, f"points, 95% over\n{_UNITS}", "")
    title(axes, f"{rows[0].bench}: minus {to}")


@dataclass(frozen=True)
class _Interval:
    """A difference in percentage points with its 95% interval."""

    value: float
    ends: tuple[float, ...]  # the two ends of the interval, or empty
    unit: str  # "seeds" or "problems"
    two_seeds: bool


def _interval(difference: Difference) -> _Interval:
    seeds, problems = difference.over_seeds, difference.over_problems
    unit = "problems" if seeds.low is None else "seeds"
    low, high = (problems.low, problems.high) if seeds.low is None else (seeds.low, seeds.high)
    ends = () if low is None or high is None else (100 * low, 100 * high)
    return _Interval(100 * seeds.difference, ends, unit, seeds.seeds == 2)


def _energy_over_depth(axes: Axes, rows: Sequence[Row]) -> None:
    energies = [row.energy for row in rows if row.energy is not None]
    for index, (row, energy) in enumerate(zip(rows, energies, strict=True)):
        percents = [100 * share for share in energy["share"]]
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        axes.plot(energy["layers"], percents, color=colour, marker=marker, markersize=3, label=row.title)
    depth = len(energies[0]["layers"])
    axes.axhline(100 / depth, color=GREY, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, "decoder block", "share of the flow's energy, %")
    axes.legend(
        frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
    )  # lines may cross any part of the chart
    entropies = [energy["entropy"] for energy in energies]
    low, high = f"{min(entropies):.2f}", f"{max(entropies):.2f}"
    span = low if low == high else f"{low} to {high}"
    title(axes, f"energy over depth at the end\n(entropy {span} nats; dotted: uniform, {math.log(depth):.2f})")
