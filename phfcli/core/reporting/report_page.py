"""The report page: results, training curves, hidden flow, problems, settings and provenance of some runs.

The page is complete without its script, which only sorts and filters. The template escapes text; matplotlib escapes the
text of charts. The page needs no network, and its content security policy allows only its own style and script.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from phfcli.core.analysis.compare import Comparison, compare
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import load_evaluations, named_path, summaries_of
from phfcli.core.reporting.comparison_text import verdict
from phfcli.core.reporting.figures import MAIN_PANELS, differences_height, layer_panels, view_panels
from phfcli.core.reporting.flow_charts import one_look_a_run
from phfcli.core.reporting.inline_svg import inline_svg
from phfcli.core.reporting.page_parts import Figure, problem_grid, render_page, sortable
from phfcli.core.reporting.run_summaries import (
    FULL,
    RunSummary,
    load_run_summary,
    provenance_table,
    rollout_views,
    settings_tables,
    with_distinct_names,
)
from phfcli.core.reporting.score_charts import CAPTIONS, sample_panels
from phfcli.core.reporting.tables import ResultTable, gain_sentences, layer_records, paper_table, view_of
from phfcli.core.reporting.training_charts import MAPS, part_map, training_panels
from phfcli.core.runs.folder import now
from phfcli.core.step_metrics import CURVES, DETAILS, own_metrics
from phfcli.core.storage.files import write_text
from phfcli.core.version import __version__

_NAMED = 4  # runs in the title
_ENERGY = "Energy: loss, (direction + geometry) / 2, eq. 8 of the paper, of the flows saved with checkpoints."
_FLOW_CAPTIONS = {
    "shares": "Share of the energy of each decoder block. Bars at the dashed line would mean the same difference at "
    "every depth.",
    "beside the paper": "The largest share as a multiple of the uniform share, so that models of other depth compare. "
    "Grey bars are the paper's, which does not define its energy.",
    "share map": "Each block's share at each saved step, as a multiple of the uniform share: grey at 1, orange above, "
    "blue below.",
    "entropies": "Entropy of the shares over training, in percent of its maximum; lower is more concentrated. Grey "
    "marks are the paper's at step 100.",
    "position map": "Mean energy of the transitions in each part of the rollout, by block. Dark columns are parts of "
    "the text, dark rows are blocks.",
    "terms": "Direction, geometry and adjacent-layer terms by block, means over rollouts. Together they make the "
    "flow loss.",
    "agreement": "Cosine of student's and teacher's transitions, and CKA of their states, by block. 1: no difference.",
    "ranks": "Effective rank of the directions along a rollout, of student and teacher. A low rank means "
    "that the transitions use few directions.",
    "state cosine": "Cosine of the last block's states over the first and over the last k tokens of the rollouts. The "
    "lower curve is the end at which student and teacher differ more.",
    "lens entropy": "Entropy of the next token when the model's head reads each block's state: the logit lens.",
}


def write_report(path: Path, paths: Sequence[str], title: str, unequal: bool = False) -> None:
    """Writes the report page.

    Args:
        path: the path of the page, to which its links to samples are relative.
        paths: the runs, each as PATH or NAME=PATH.
        title: the title of the page; if empty, the names of the runs.
        unequal: whether evaluations with other prompts or sampling settings are compared too.

    Raises:
        UserError: a path that is neither a run nor evaluated, a run that is given twice, or evaluations that do not
            compare.
    """
    runs = with_distinct_names(_loaded(paths))
    newest, evaluated = (
        [text for text, run in zip(paths, runs, strict=True) if summaries_of(run.folder, all_steps)]
        for all_steps in (False, True)
    )
    comparison = compare(load_evaluations(newest, []), unequal)
    steps = compare(load_evaluations(evaluated, [], all_steps=True), unequal=True, tested=False)
    with one_look_a_run([*(run.name for run in runs), *(method.name for method in comparison.methods)]):
        flows = [_flow(run, index) for index, run in enumerate(runs) if run.flows]
        differing, same = settings_tables(runs)
        tables = view_of("runs", comparison).tables
        context = {
            "title": title or _title([run.name for run in runs]),
            "runs": [run.name for run in runs],
            "version": __version__,
            "created": now(),
            "verdict": verdict(comparison, runs),
            "notes": [
                *comparison.notes,
                *(c.sentence for c in (*comparison.chosen, *steps.chosen)),
                *_overlaps(comparison),
            ],
            "tables": [sortable(table) for table in (*_by_bench(comparison), *map(_scores_first, tables))],
            "gains": gain_sentences(comparison.pairs),
            "scores": [*_scores(comparison, steps), *_samples(comparison)],
            "training": [*_training(runs, CURVES, "curve"), *_maps(runs)],
            "details": _training(runs, DETAILS | own_metrics(run.metrics for run in runs), "detail"),
            "alarms": [f"{run.name}: {alarm['sentence']}." for run in runs for alarm in run.alarms],
            "flows": flows,
            "followed": rollout_views(runs),
            "full": FULL,
            "energy": _ENERGY,
            "grids": [problem_grid(comparison, bench, index, path) for index, bench in enumerate(comparison.benches)],
            "settings": sortable(differing),
            "same": sortable(same),
            "provenance": sortable(provenance_table(runs)),
        }
    write_text(path, render_page("report.html", context))


def _title(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"Results of {', '.join(names[:_NAMED])}{more}"


def _loaded(paths: Sequence[str]) -> list[RunSummary]:
    given: dict[Path, str] = {}
    runs = []
    for text in paths:
        runs.append(load_run_summary(*named_path(text)))
        home = runs[-1].folder.resolve()
        if home in given:
            raise UserError(f"{text}: is the same run as {given[home]}; give each of them once")
        given[home] = text
    return runs


def _by_bench(comparison: Comparison) -> list[ResultTable]:
    """Table 1 of the paper: methods by benchmarks, with the mean as the first column; none for a single benchmark."""
    if len(comparison.benches) < 2:
        return []
    table = paper_table(comparison)
    first = table.columns.index(comparison.benches[0])
    rows = [[*row[:first], row[-1], *row[first:-1]] for row in (table.columns, *table.rows)]
    return [ResultTable(table.title, rows[0], rows[1:], table.text)]


def _scores_first(table: ResultTable) -> ResultTable:
    """A table in whose left part, all that a narrow screen shows, the score stands."""
    order = sorted(range(len(table.columns)), key=lambda place: table.columns[place] in ("step", "n", "problems"))
    first, *rows = ([row[place] for place in order] for row in (table.columns, *table.rows))
    return ResultTable(table.title, first, rows, table.text)


def _overlaps(comparison: Comparison) -> list[str]:
    """Sentences on the overlap of benchmarks with training data, without repetitions."""
    sentences = [(result.name, result.summary.get("overlap", {}).get("sentence")) for result in comparison.results]
    return list(dict.fromkeys(f"{name}: {sentence}" for name, sentence in sentences if sentence))


def _scores(comparison: Comparison, steps: Comparison) -> list[Figure]:
    if not comparison.results:
        return []
    size = (4.9, differences_height(comparison))
    captions = ["Average@n with its standard error over problems; seeds of one method are pooled."] * len(
        comparison.models
    )
    captions.append(
        "Differences with their 95% intervals, over seeds if both sides have several, else over problems; of very many "
        "those of the smallest p-values. The grey band marks true differences that the test would miss more than one "
        "time in five."
    )
    drawn = [
        Figure(inline_svg(panel, caption, f"score-{index}", size), caption)
        for index, (panel, caption) in enumerate(zip(view_panels("runs", comparison), captions, strict=False))
    ]
    if len({result.step for result in steps.results if result.step}) > 1:
        caption = "Average@n at the evaluated checkpoints, with its standard error over problems. Dashed: untrained."
        drawn += [
            Figure(inline_svg(panel, caption, f"dynamics-{index}"), caption)
            for index, panel in enumerate(view_panels("dynamics", steps))
        ]
    return drawn


def _samples(comparison: Comparison) -> list[Figure]:
    """The charts of samples (pass@k, lengths), by benchmark."""
    drawn = []
    for index, bench in enumerate(comparison.benches):
        panels = sample_panels([result for result in comparison.results if result.bench == bench])
        for name, panel in panels.items():
            caption = f"{bench}. {CAPTIONS[name]}"
            drawn.append(Figure(inline_svg(panel, caption, f"samples-{index}-{name.replace(' ', '-')}"), caption))
    return drawn


def _training(runs: Sequence[RunSummary], captions: Mapping[str, str], name: str) -> list[Figure]:
    panels = training_panels({run.name: run.metrics for run in runs}, captions)
    return [
        Figure(inline_svg(panel, captions[key], f"{name}-{index}"), captions[key])
        for index, (key, panel) in enumerate(panels.items())
    ]


def _maps(runs: Sequence[RunSummary]) -> list[Figure]:
    drawn = []
    for index, run in enumerate(runs):
        for key, (_, _, map_caption) in MAPS.items():
            if any(key in line for line in run.metrics):
                caption, panel = f"{run.name}: {map_caption}", partial(part_map, metrics=run.metrics, key=key)
                drawn.append(Figure(inline_svg(panel, caption, f"map-{index}-{key}"), caption))
    return drawn


def _flow(run: RunSummary, index: int) -> dict[str, Any]:
    """The section of a run's hidden flow, for the template."""
    newest = run.flows[-1]
    drawn: dict[str, Callable[[Axes], None]] = {name: chart for name, (chart,) in layer_panels(run.flows).items()}
    layer, share = newest.largest
    summary = (
        f"step {newest.step}: largest share {100 * share:.1f} % in block {layer}, entropy {newest.entropy:.2f} of "
        f"{newest.max_entropy:.2f} nats, {newest.samples} rollouts"
    )
    records = layer_records([newest])
    kept = [column for column in records[0] if not column.startswith(("part_", "energy_", "step"))]
    table = ResultTable(
        f"{run.name}, step {newest.step}",
        [column.replace("_", " ") + (", %" if column == "share" else "") for column in kept],
        [[_short(record[column], column == "share") for column in kept] for record in records],
        text=(),
    )
    figures = [
        Figure(
            inline_svg(panel, f"{run.name}: {_FLOW_CAPTIONS[name]}", f"flow-{index}-{name.replace(' ', '-')}"),
            _FLOW_CAPTIONS[name],
        )
        for name, panel in drawn.items()
    ]
    main = sum(name in MAIN_PANELS for name in drawn)
    head = {"name": run.name, "summary": summary, "table": sortable(table)}
    return head | {"figures": figures[:main], "further": figures[main:]}


def _short(value: object, percent: bool) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{100 * value:.1f}" if percent else f"{value:#.4g}"
