"""The charts of a study: scores over training, differences with their intervals, energy over depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from phfcli.core.evaluation.scores import standard_error
from phfcli.core.reporting.figures import Panel, figure_of
from phfcli.core.reporting.flow_charts import BLUE, GREY, INK, ORANGE, look_of, name_axes, one_look_a_run, title
from phfcli.core.studies.results import Difference, Results, Row
from phfcli.core.studies.study_file import BASE, Study

_SIZE = (8.0, 4.4)  # of a picture, in inches: as wide as a page's text
_ROW = 0.26  # height of a system's row, in inches
_AROUND_ROWS = 1.0  # inches above and below the rows
_UNITS = "● seeds  ■ problems"
_STYLES = {"seeds": (BLUE, "o"), "problems": (ORANGE, "s")}
_MARGIN = 0.05  # of the scale, on both sides
_MOST_LINES = 20  # in a chart that stays readable


def pictures(study: Study, results: Results) -> dict[str, Figure]:
    """Name -> a picture of one chart: each model's scores, differences on each benchmark, and energy over depth.

    Scores are lines over training if several steps were evaluated. With very many systems only differences are drawn.
    Charts of one kind have one range, so that models and benchmarks can be compared by eye.
    """
    over_training = len(study.evaluated) > 1
    compared = [row for row in results.rows if row.difference is not None]  # none before the baseline has been run
    to, scale = study.systems[study.baseline].title, _scale(compared)
    scores, differences, energies = dict[str, Panel](), dict[str, Panel](), dict[str, Panel]()
    for model in study.models:
        first, benches = results.systems(model), results.benches(model)
        if first and len(first) <= _MOST_LINES:
            scores[f"scores-{model}"] = partial(_dynamics if over_training else _scores, rows=first)
        for number, bench in enumerate(benches, start=1):
            name = f"differences-{model}" + (f"-{number}" if len(benches) > 1 else "")
            if rows := [row for row in compared if (row.model, row.bench) == (model, bench)]:
                differences[name] = partial(_differences, rows=rows, to=to, scale=scale)
        if rows := [row for row in first if row.energy]:
            energies[f"energy-{model}"] = partial(_energy_over_depth, rows=rows)
    most = max((len(results.of(row.model, row.bench)) for row in results.rows), default=0)
    size = _SIZE[0], max(_SIZE[1], _ROW * most + _AROUND_ROWS)
    with one_look_a_run(system.title for system in study.systems.values()):
        drawn = {name: figure_of([panel], size=size) for name, panel in (scores | differences | energies).items()}
    _share_range([drawn[name] for name in scores], "y" if over_training else "x")
    _share_range([drawn[name] for name in energies], "y")
    return drawn


def _share_range(figures: Sequence[Figure], axis: Literal["x", "y"]) -> None:
    """Along that axis each figure shows what any of them shows."""
    axes = [figure.axes[0] for figure in figures]
    limits = [each.get_xlim() if axis == "x" else each.get_ylim() for each in axes]
    for each in axes:
        each.set(**{f"{axis}lim": (min(low for low, _ in limits), max(high for _, high in limits))})


def _scores(axes: Axes, rows: Sequence[Row]) -> None:
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
    title(axes, f"{_where(rows)}: scores after {step} steps (seeds)")


def _dynamics(axes: Axes, rows: Sequence[Row]) -> None:
    """The score of each system over training."""
    base = next((row for row in rows if row.system == BASE), None)
    for index, row in enumerate(row for row in rows if row.system != BASE):
        averages = ({0: base.final} if base else {}) | row.averages
        means = [100 * fmean(values) for values in averages.values()]
        errors = [100 * (standard_error(np.array(values)) or 0) for values in averages.values()]
        look = look_of(row.title, index)
        axes.errorbar(
            list(averages),
            means,
            errors,
            label=f"{row.title} ({len(row.final)})",
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=4,
            capsize=2,
        )
    if base is not None:
        axes.axhline(100 * base.final[0], color=GREY, linestyle=":", label="base model")
    name_axes(axes, "training step", "Average, % ± standard error over seeds")
    _legend_beside(axes, "system (seeds)")
    title(axes, f"{_where(rows)}: scores over training")


def _differences(axes: Axes, rows: Sequence[Row], to: str, scale: tuple[float, float]) -> None:
    """The difference of each system from the baseline, with its interval over seeds (blue) or problems (orange).

    An arrow marks an interval that ends outside of the scale, which is in points.
    """
    intervals = [_interval(row.difference) for row in rows if row.difference is not None]
    left, right = scale
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
    title(axes, f"{_where(rows)}: difference from {to}")


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """The ends of a scale of points that shows zero, every difference, and every interval but those of two seeds.

    The interval of two seeds is 13 standard errors wide on each side.
    """
    intervals = [_interval(row.difference) for row in rows if row.difference is not None]
    ends = [end for interval in intervals if not interval.two_seeds for end in interval.ends]
    shown = [0.0, *ends, *(interval.value for interval in intervals)]
    margin = _MARGIN * (max(shown) - min(shown)) or 1.0  # all differences are zero, without intervals
    return min(shown) - margin, max(shown) + margin


def _where(rows: Sequence[Row]) -> str:
    """The model and the benchmark of a chart, a file by its name."""
    return f"{rows[0].model} on {Path(rows[0].bench).stem}"


def _legend_beside(axes: Axes, heading: str | None = None) -> None:
    """The legend at the right of a chart, whose lines may cross any part of it."""
    axes.legend(frameon=False, fontsize=8, title=heading, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


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
        look = look_of(row.title, index)
        (line,) = axes.plot(energy["layers"], percents, color=look.colour, linestyle=look.line, label=row.title)
        line.set(marker=look.marker, markersize=3)
    depth = len(energies[0]["layers"])
    axes.axhline(100 / depth, color=GREY, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, "decoder block", "share of the flow's energy, %")
    _legend_beside(axes)
    entropies = [energy["entropy"] for energy in energies]
    low, high = f"{min(entropies):.2f}", f"{max(entropies):.2f}"
    span = low if low == high else f"{low} to {high}"
    title(axes, f"{rows[0].model}: energy at the end (entropy {span} nats; dotted: uniform, {math.log(depth):.2f})")
