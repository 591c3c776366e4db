"""Tables of results and of comparisons, and tables as files."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.core.analysis.compare import SUITE, Comparison, Pair
from phfcli.core.analysis.differences import PairedDifference, SeedDifference
from phfcli.core.analysis.methods import Method
from phfcli.core.errors import interval, markdown_cell, markdown_lines, percent, points, with_error
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.names import ViewName
from phfcli.core.storage.files import write_text

if TYPE_CHECKING:
    import pandas as pd

    from phfcli.core.analysis.diagnose import LayerReport

_SCORE = r"^(\d+\.\d+) ± (\d+\.\d+)$"  # a score; a difference has a sign, so it never counts as the best

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    # at the start of a row they would be options of the \\ before
    "[": "{[}",
    "*": "{*}",
}


@dataclass(frozen=True)
class ResultTable:
    """A table of text, with numbers already formatted.

    Attributes:
        text: the columns of words, aligned to the left; the others hold numbers, aligned to the right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[str]


def as_markdown(table: ResultTable) -> str:
    lines = markdown_lines(table.columns, table.rows)
    return f"**{markdown_cell(table.title)}**\n\n" + "\n".join(lines) + "\n"


def as_latex(table: ResultTable, label: str = "tab:results", ranked: bool = False) -> str:
    """A table as LaTeX, which needs the package booktabs. Numbers are aligned to the right, errors are small.

    Args:
        label: the label of the table.
        ranked: whether the rows are methods; then the highest score of each column and model is bold.
    """
    import pandas as pd

    cells = pd.DataFrame([list(row) for row in table.rows], columns=range(len(table.columns)), dtype=str)
    bold = _best(cells, table.columns[0] == "model") if ranked else cells != cells
    written = [
        [_latex_score(cell, best) for cell, best in zip(row, marks, strict=True)]
        for row, marks in zip(cells.to_numpy(), bold.to_numpy(), strict=True)
    ]
    return pd.DataFrame(written, columns=[_latex_cell(name) for name in table.columns]).to_latex(
        index=False,
        escape=False,  # pandas would leave ±, and brackets that LaTeX takes as options
        column_format="".join("l" if name in table.text else "r" for name in table.columns),
        caption=_latex_cell(table.title),
        label=label,
    )


def write_records(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Writes records as CSV, their keys as the header; None is an empty cell."""
    import pandas as pd

    frame = pd.DataFrame(
        [dict(record) for record in records], dtype=object
    )  # dtype object, or pandas writes an integer beside a gap as 1.0
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def layer_records(reports: "Sequence[LayerReport]") -> list[dict[str, object]]:
    """The values of flow reports, a record for each step and layer; `adjacent` of the last layer is None."""
    lens = any(report.lens_entropy is not None for report in reports)
    return [
        {
            "step": report.step,
            "layer": layer,
            "energy_kind": report.energy,
            "energy": report.energies[index],
            "share": report.share[index],
            **{f"energy_{kind}": values[index] for kind, values in report.all_energies.items()},
            **{
                name: values[index] if index < len(values) else None
                for name, values in report.measures.items()
                if name not in report.all_energies
            },
            **{f"part_{part}": value for part, value in enumerate(report.position_map[index], start=1)},
            **({"lens_entropy": report.lens_entropy[index] if report.lens_entropy else None} if lens else {}),
        }
        for report in reports
        for index, layer in enumerate(report.layers)
    ]


def _best(cells: "pd.DataFrame", by_model: bool) -> "pd.DataFrame":
    """A mask of the cells with the highest score of their column and model, among at least two scores."""
    scores = cells.apply(lambda column: column.str.extract(_SCORE)[0].astype(float))
    models = cells[0] if by_model else cells[0].map(lambda _: "")
    groups = scores.groupby(models)
    best: pd.DataFrame = (scores == groups.transform("max")) & (groups.transform("count") > 1)
    return best


def _latex_score(cell: str, best: bool) -> str:
    """A cell as LaTeX, with a small error, and bold if it is the best score."""
    match = re.fullmatch(_SCORE, cell)
    if match is None:
        return _latex_cell(cell)
    score = rf"\textbf{{{match[1]}}}" if best else match[1]
    return rf"{score} {{\scriptsize $\pm$ {match[2]}}}"


def _latex_cell(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(cell.split()))


Record = dict[str, Any]

_P_FLOOR = 1e-4  # the smallest p-value of the permutation test
_ERROR = "Average@n in percent ± standard error over problems"


@dataclass(frozen=True)
class View:
    """The tables of one view without empty ones, and the records for CSV."""

    tables: list[ResultTable]
    records: list[Record]


def view_of(name: ViewName, comparison: Comparison) -> View:
    """The view of that name."""
    views: dict[ViewName, Callable[[Comparison], View]] = {
        "runs": runs,
        "methods": methods,
        "ablations": ablations,
        "dynamics": dynamics,
    }
    view = views[name](comparison)
    return View([table for table in view.tables if table.rows], view.records)


def runs(comparison: Comparison) -> View:
    """The view "runs": every evaluation, and every tested difference."""
    return View([_run_table(comparison.results), pair_table(comparison.pairs)], _run_records(comparison.results))


def methods(comparison: Comparison) -> View:
    """The view "methods", Table 1 of the paper: the pooled scores of each method on each benchmark, and their mean."""
    return View([_method_table(comparison), pair_table(comparison.pairs)], _method_records(comparison))


def _method_table(comparison: Comparison) -> ResultTable:
    benches = comparison.benches
    several = len(benches) > 1
    rows = [
        [
            method.model,
            method.name,
            str(method.seeds),
            *_cells(method, benches),
            *([_suite(method, benches)] if several else []),
        ]
        for model in comparison.models
        for method in comparison.methods
        if method.model == model
    ]
    columns = ["model", "method", "seeds", *benches, *(["Average"] if several else [])]
    return ResultTable(_ERROR, columns, rows, text=("model", "method"))


def paper_table(comparison: Comparison) -> ResultTable:
    """Table 1 as papers print it: methods by benchmarks, with the model only if there are several."""
    table = _method_table(comparison)
    left_out = {"seeds"} | ({"model"} if len(comparison.models) == 1 else set())
    kept = [index for index, column in enumerate(table.columns) if column not in left_out]
    rows = [[row[index] for index in kept] for row in table.rows]
    return ResultTable(table.title, [table.columns[index] for index in kept], rows, table.text)


def ablations(comparison: Comparison) -> View:
    """The view "ablations", Table 2 of the paper: the mean over benchmarks, variants by models."""
    names = list(dict.fromkeys(method.name for method in comparison.methods))
    rows = []
    for name in names:
        cells = []
        for model in comparison.models:
            matching = [method for method in comparison.methods if (method.name, method.model) == (name, model)]
            cells.append(_suite(matching[0], comparison.benches) if matching else "-")
        rows.append([name, *cells])
    title = f"{_ERROR}: {' + '.join(comparison.benches)}"
    table = ResultTable(title, ["variant", *comparison.models], rows, text=("variant",))
    return View([table], _method_records(comparison))


def dynamics(comparison: Comparison) -> View:
    """The view "dynamics", Figure 2 of the paper: the pooled score at each evaluated training step."""
    rows, records = [], []
    for method, bench, step, score, error in trajectories(comparison):
        rows.append([method.model, bench, method.name, str(step), with_error(score, error)])
        seeds = sum((result.step or 0) == step for result in method.of(bench))
        records.append(_record(method, bench, score, error) | {"seeds": seeds, "step": step})
    text = ("model", "bench", "method")
    return View([ResultTable(_ERROR, [*text, "step", "Average@n"], rows, text)], records)


def trajectories(comparison: Comparison) -> list[tuple[Method, str, int, float, float | None]]:
    """(method, benchmark, step, score, its error) in the order of methods and steps; an untrained model has step 0."""
    points = []
    for method in comparison.methods:
        for bench in method.benches:
            results = method.of(bench)
            for step in sorted({result.step or 0 for result in results}):
                at_step = Method(method.name, method.model, [r for r in results if (r.step or 0) == step])
                points.append((method, bench, step, *at_step.average(bench)))
    return points


def pair_table(pairs: Sequence[Pair]) -> ResultTable:
    """The table of tested differences in points, a row for each unit (seeds, problems)."""
    figures = ["points", "95% interval", "over", "p", "p, Holm", "could show"]
    columns = ["bench", "difference of", *figures, "gained", "lost"]
    several = len({pair.model for pair in pairs}) > 1
    rows = []
    for pair in pairs:
        measured = pair.measured
        bench = f"{pair.model}, {pair.bench}" if several else pair.bench
        counts = ["-", "-"] if pair.bench == SUITE else [str(len(pair.gained)), str(len(pair.lost))]
        head = [bench, f"{pair.b} - {pair.a}"]
        rows.append([*head, *_unit_cells(measured.result, p_text(pair.p_holm)), *counts])
        if measured.over_seeds is not None:
            other = measured.over_problems if measured.unit == "seeds" else measured.over_seeds
            rows.append([*head, *_unit_cells(other, "-"), "-", "-"])
    title = "Differences. Over seeds: would other trainings differ? Over problems: would these, on other problems?"
    return ResultTable(title, columns, rows, text=("bench", "difference of", "over"))


def p_text(p_value: float | None) -> str:
    """A p-value with four decimals; that of the smallest one, 0.0001, stands for all below it too."""
    return "-" if p_value is None else f"{max(p_value, _P_FLOOR):.4f}"


def gain_sentences(pairs: Sequence[Pair]) -> list[str]:
    """A sentence on each kind of gain of each difference, with its rule and figures."""
    return [f"{pair.bench}, {pair.b} - {pair.a}: {finding.sentence}" for pair in pairs for finding in pair.gain]


def _unit_cells(result: PairedDifference | SeedDifference, p_holm: str) -> list[str]:
    error = "" if result.stderr is None else f" ± {percent(result.stderr)}"
    unit = f"{result.seeds} seeds" if isinstance(result, SeedDifference) else f"{result.problems} problems"
    tests = p_text(result.p_value), p_holm, percent(result.detectable)
    bounds = interval(result.low, result.high)
    bound = isinstance(result, PairedDifference) and result.bound and bounds != "-"
    return [f"{points(result.difference)}{error}", f"{bounds} (a bound)" if bound else bounds, unit, *tests]


def pair_records(pairs: Sequence[Pair]) -> list[Record]:
    """Records of the tested differences for CSV: differences as fractions, changed problems as counts."""
    counts = [{"gained": len(pair.gained), "lost": len(pair.lost)} for pair in pairs]
    return [
        {key: value for key, value in pair.as_json().items() if key not in ("over_problems", "over_seeds")}
        | {"gain": "; ".join(finding.name for finding in pair.gain)}
        | {f"{side}_over_seeds": getattr(pair.measured.over_seeds, side, None) for side in ("low", "high", "p_value")}
        | {f"{side}_over_problems": getattr(pair.measured.over_problems, side) for side in ("low", "high", "p_value")}
        | changed
        for pair, changed in zip(pairs, counts, strict=True)
    ]


def _run_table(results: Sequence[SavedEvaluation]) -> ResultTable:
    columns = ["run", "step", "bench", "n", "problems", "Average@n", "greedy", "pass@n", "majority", "truncated"]
    rows = []
    for result in results:
        summary = result.summary
        passed = summary.get("pass_at_k", {}).get(str(summary.get("n")))
        average = with_error(summary["average"], summary["stderr"])
        scores = average, percent(summary.get("greedy")), percent(passed), percent(summary.get("majority"))
        counts = _text(summary.get("n")), _text(summary.get("problems"))
        rows.append(
            [result.name, _text(result.step), result.bench, *counts, *scores, percent(summary.get("truncated_share"))]
        )
    return ResultTable(_ERROR, columns, rows, text=("run", "bench"))


def _run_records(results: Sequence[SavedEvaluation]) -> list[Record]:
    keys = ("n", "problems", "average", "stderr", "greedy", "majority", "truncated_share", "mean_tokens")
    return [
        {"run": r.name, "model": r.model, "seed": r.seed, "step": r.step, "bench": r.bench}
        | {key: r.summary.get(key) for key in keys}
        | {"pass_at_n": r.summary.get("pass_at_k", {}).get(str(r.summary.get("n")))}
        for r in results
    ]


def _method_records(comparison: Comparison) -> list[Record]:
    records = []
    for method in comparison.methods:
        spreads = {bench: {"seed_spread": method.seed_spread(bench)} for bench in method.benches}
        records += [_record(method, bench, *method.average(bench)) | spread for bench, spread in spreads.items()]
        if len(comparison.benches) > 1 and (suite := method.suite(comparison.benches)):
            records.append(_record(method, SUITE, *suite) | {"seed_spread": None})
    return records


def _record(method: Method, bench: str, score: float, error: float | None) -> Record:
    head = {"model": method.model, "method": method.name, "seeds": method.seeds, "bench": bench}
    return head | {"average": score, "stderr": error}


def _cells(method: Method, benches: Sequence[str]) -> list[str]:
    return [with_error(*method.average(bench)) if bench in method.benches else "-" for bench in benches]


def _suite(method: Method, benches: Sequence[str]) -> str:
    suite = method.suite(benches)
    return "-" if suite is None else with_error(*suite)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
