"""Writes the report: one page with the results, training curves, hidden flow, problems, settings and provenance.

The page is complete without its script, which sorts and filters. Text is escaped by the template, in pictures by their
writer. Like the page of samples it asks no network, and its policy allows nothing but its own style and script.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes

from phfcli.core.analysis.compare import Comparison, compare
from phfcli.core.evaluation.page_style import common_style, page_policy
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, load_evaluations, named_path, summaries_of
from phfcli.core.reporting import score_charts
from phfcli.core.reporting.comparison_tables import view_of
from phfcli.core.reporting.figures import differences_height, layer_panels, view_panels
from phfcli.core.reporting.inline_svg import inline_svg
from phfcli.core.reporting.problem_grid import problem_grid
from phfcli.core.reporting.run_summaries import (
    RunSummary,
    load_run_summary,
    provenance_table,
    settings_tables,
    with_distinct_names,
)
from phfcli.core.reporting.table_export import ResultTable, layer_table
from phfcli.core.runs.provenance import now
from phfcli.core.storage.files import write_text
from phfcli.core.version import __version__

_FOLDER = Path(__file__).parent / "page"
_CURVES = {
    "loss": "Loss of each step: the whole objective, so it compares runs of one objective only.",
    "divergence": "Divergence of the next-token distributions, mean over tokens, before its weight.",
    "flow": "Flow loss (eq. 13), mean over rollouts.",
    "pointwise": "Pointwise loss of the states, mean over rollouts.",
    "reward": "Share of right completions in training.",
    "clip_share": "Share of the divergence that the clip takes, and its gradient with it.",
    "turned_tokens": "Share of the tokens whose gradient the clip turns against the divergence.",
    "state_cosine": "Cosine of the two readers' states, mean over layers and positions, then over rollouts.",
    "attention_gap": "Divergence of the shadow block's attention from the last block's, mean over rollouts.",
    "grad_norm": "Norm of the gradient before it is clipped.",
    "rollout_tokens": "Mean length of a rollout, in tokens.",
}
_FLOW_CAPTIONS = {
    "shares": "Share of the energy that each decoder block carries. Even bars at the dashed line would be a flow that "
    "differs alike at every depth.",
    "beside the paper": "The largest share as a multiple of the uniform one, so that models of other depth compare. "
    "Grey bars are the paper's figures, whose energy it does not define.",
    "share map": "Each block's share at each saved step, as a multiple of the uniform share. A row that darkens to the "
    "right is a block that comes to carry more.",
    "entropies": "Entropy of the shares over training, in percent of its maximum; lower is more concentrated. Grey "
    "marks are the paper's at step 100.",
    "position map": "Mean energy of the transitions in each part of the rollout, by block. Dark columns are places in "
    "the text, dark rows are depths.",
    "terms": "Direction, geometry and neighbouring-layer terms by block, means over rollouts. Together they are the "
    "flow loss.",
    "agreement": "Cosine of student's and teacher's transitions, and CKA of their states, by block. One is agreement.",
    "ranks": "Effective rank of the directions along a rollout, for both readers. A low one is a flow on few lines.",
}
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?=\s|$)")
_BELOW_ALL = "-1000000000"  # what an empty cell sorts by
_POINTS = 200  # of a curve


class Figure(NamedTuple):
    """A picture of the page, with what it shows."""

    svg: str
    caption: str


def write_report(path: Path, paths: Sequence[str], title: str, unequal: bool = False) -> None:
    """Writes the page of some runs, each as PATH or NAME=PATH; their links to samples are relative to `path`.

    Raises:
        UserError: for a path that is no run and has no evaluation, and where evaluations do not compare.
    """
    runs = with_distinct_names([load_run_summary(*named_path(text)) for text in paths])
    newest, evaluated = (
        [text for text, run in zip(paths, runs, strict=True) if summaries_of(run.folder, all_steps)]
        for all_steps in (False, True)
    )
    comparison = compare(load_evaluations(newest, []), unequal)
    steps = load_evaluations(evaluated, [], all_steps=True)
    flows = [_flow(run, place) for place, run in enumerate(runs) if run.flows]
    differing, same = settings_tables(runs)
    context = {
        "title": title,
        "runs": [run.name for run in runs],
        "version": __version__,
        "created": now(),
        "notes": comparison.notes,
        "tables": [_sortable(table) for table in view_of("runs", comparison).tables],
        "scores": _scores(comparison, steps),
        "training": _training(runs),
        "flows": flows,
        "energy": "Energy: loss, (direction + geometry) / 2, eq. 8 of the paper, of the flows saved with checkpoints.",
        "grids": [problem_grid(comparison, bench, place, path) for place, bench in enumerate(comparison.benches)],
        "settings": _sortable(differing),
        "same": _sortable(same),
        "provenance": _sortable(provenance_table(runs)),
    }
    write_text(path, _page(context))


def _page(context: dict[str, Any]) -> str:
    loader = FileSystemLoader(_FOLDER)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.get_template("report.html")
    style = common_style() + (_FOLDER / "report.css").read_text(encoding="utf-8")
    script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("tablesort.min.js", "report.js"))
    policy = page_policy(f"<style>{style}</style><script>{script}</script>")
    page = template.render(context | {"style": style, "script": script, "policy": policy})
    return page.encode("utf-8", "replace").decode()  # half a character pair cannot be written


def _scores(comparison: Comparison, steps: list[SavedEvaluation]) -> list[Figure]:
    if not comparison.results:
        return []
    size = (4.9, differences_height(comparison))
    captions = ["Average@n with its standard error over problems; seeds of one method are pooled."] * len(
        comparison.models
    )
    captions.append(
        "Differences paired by problem with their 95% intervals, of very many the clearest. Within the grey, the test "
        "would have missed a true difference more than one time in five."
    )
    drawn = [
        Figure(inline_svg(panel, caption, f"score-{place}", size), caption)
        for place, (panel, caption) in enumerate(zip(view_panels("runs", comparison), captions, strict=False))
    ]
    if len({result.step for result in steps if result.step}) > 1:
        caption = "Average@n at the evaluated checkpoints, with its standard error over problems. Dashed: untrained."
        dynamics = view_panels("dynamics", compare(steps, unequal=True, tested=False))
        drawn += [
            Figure(inline_svg(panel, caption, f"dynamics-{place}"), caption) for place, panel in enumerate(dynamics)
        ]
    return drawn


def _training(runs: Sequence[RunSummary]) -> list[Figure]:
    drawn = []
    for key, caption in _CURVES.items():
        curves = {run.name: _curve(run.metrics, key) for run in runs if run.metrics}
        if any(curves.values()):
            panel = partial(score_charts.curves, curves=curves, name=key.replace("_", " "))
            drawn.append(Figure(inline_svg(panel, caption, f"curve-{key}"), caption))
    return drawn


def _curve(metrics: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value), of a long run the means of neighbouring steps."""
    points = [(float(line["step"]), float(line[key])) for line in metrics if key in line]
    every = max(1, -(-len(points) // _POINTS))
    parts = [points[start : start + every] for start in range(0, len(points), every)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _flow(run: RunSummary, place: int) -> dict[str, Any]:
    newest = run.flows[-1]
    drawn: dict[str, Callable[[Axes], None]] = layer_panels(run.flows)
    layer, share = newest.largest
    summary = (
        f"step {newest.step}: largest share {100 * share:.1f} % in block {layer}, entropy {newest.entropy:.2f} of "
        f"{newest.max_entropy:.2f} nats, {newest.samples} rollouts"
    )
    header, *rows = layer_table([newest])
    kept = [index for index, column in enumerate(header) if not str(column).startswith(("part_", "energy_", "step"))]
    table = ResultTable(
        f"{run.name}, step {newest.step}",
        [str(header[index]).replace("_", " ") for index in kept],
        [[_short(row[index]) for index in kept] for row in rows],
    )
    figures = [
        Figure(
            inline_svg(panel, f"{run.name}: {_FLOW_CAPTIONS[name]}", f"flow-{place}-{name.replace(' ', '-')}"),
            _FLOW_CAPTIONS[name],
        )
        for name, panel in drawn.items()
    ]
    return {"name": run.name, "summary": summary, "figures": figures, "table": _sortable(table)}


def _short(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _sortable(table: ResultTable) -> dict[str, Any]:
    """A table for the page: whether a column holds numbers, and for each cell what it sorts by, None for text."""
    numbers = []
    for index, _ in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        numbers.append(any(map(_leading, cells)) and all(cell == "-" or _leading(cell) for cell in cells))
    rows = [
        [(cell, (_leading(cell) or _BELOW_ALL) if number else None) for cell, number in zip(row, numbers, strict=True)]
        for row in table.rows
    ]
    return {"title": table.title, "columns": list(zip(table.columns, numbers, strict=True)), "rows": rows}


def _leading(cell: str) -> str:
    """The number that a cell begins with, without an exponent, which the sorting does not know; or nothing."""
    found = _NUMBER.match(cell)
    return f"{float(found[0].replace(',', '')):.12f}".rstrip("0").rstrip(".") if found else ""
