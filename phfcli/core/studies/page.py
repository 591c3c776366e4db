"""The page of a study, its pictures and its JSON, from the records alone."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from phfcli.core.analysis.diagnose import PAPER
from phfcli.core.errors import interval, markdown_lines, percent, points, with_error
from phfcli.core.reporting.figures import save_figure
from phfcli.core.storage.files import check_folder, write_json, write_text
from phfcli.core.studies.charts import pictures
from phfcli.core.studies.results import (
    LEVEL,
    WANTED_COLUMN,
    Answer,
    Results,
    Row,
    answers,
    findings,
    results_of,
    wanted_seeds,
)
from phfcli.core.studies.schedule import searched
from phfcli.core.studies.study_file import BASE, Study, StudyRun, runs_of


def write_report(study: Study, file: Path) -> Path:
    """Writes the page, its pictures and its JSON; returns the page's path.

    Raises:
        UserError: a foreign record, or a file where the folder of the pictures should be.
    """
    path, results = Path(study.page), results_of(study)
    check_folder(f"{file}: page", path.with_suffix(""))
    write_json(path.with_suffix(".json"), figures(study, results))
    drawn = pictures(study, results)
    for name, picture in drawn.items():
        save_figure(picture, path.with_suffix("") / f"{name}.png")
    write_text(path, page(study, results, file, path, drawn))
    return path


def figures(study: Study, results: Results) -> dict[str, Any]:
    search = [{"run": run.name, "rate": run.rate, "average": score} for run, score in searched(study)]
    return {
        "study": study.model_dump(mode="json"),
        "finished": results.finished,
        "wanted": results.wanted,
        "search": search,
        "planned": [asdict(answer) for answer in answers(study, results)],
        "rows": [_row(row) for row in results.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "system": row.system,
        "title": row.title,
        "bench": row.bench,
        "seeds": [record["seed"] for record in row.records],
        "averages": row.averages,
        "difference": asdict(row.difference) if row.difference else None,
        "pass_at": row.pass_at(),
        "distinct_answers": row.mean("distinct_answers"),
        "mean_tokens": row.mean("mean_tokens"),
    }


def page(study: Study, results: Results, file: Path, path: Path, drawn: Mapping[str, Figure]) -> str:
    """The page of the runs that are finished, as Markdown.

    Args:
        file: the study's file.
        path: the path of the page; the JSON lies beside it.
        drawn: name -> picture; they are in a folder of the page's name.
    """
    parts = [
        [f"# {study.title}"],
        [f"Made by `phf study {file}` from the records in `{study.records}`; not to be edited."],
        *([[_incomplete(results)]] if results.finished < results.wanted else []),
        *([sentence] for sentence in _starting_points(results)),
        [f"**Question.** {study.question.strip()}"],
        findings(study, results),
        *_planned(study, results),
        *([f"![{_title(picture)}]({path.stem}/{name}.png)"] for name, picture in drawn.items()),
        *(
            table
            for model in study.models
            for bench in results.benches(model)
            for table in _tables(study, results, model, bench)
        ),
        *_rates(study),
        *_energies(study, results),
        *_sources(study, path),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _title(picture: Figure) -> str:
    return " ".join(picture.axes[0].get_title("left").split())


def _planned(study: Study, results: Results) -> Iterator[list[str]]:
    """The comparisons that were written down before the first run, with one correction for all of them."""
    if not study.planned:
        return
    digest = hashlib.sha256(json.dumps(study.plan).encode()).hexdigest()[:12]
    yield ["## Planned comparisons"]
    yield [
        f"Written down before the first run (plan `{digest}`, kept in each record), on the first benchmark, by the "
        "sampled average and by greedy. Holm's correction is over these; all else on this page is exploratory. The "
        "interval has one variance for all systems with two seeds or more, where Levene's test does not speak against "
        "it; `own` is that of the two systems alone. A system of one or two seeds cannot tell."
    ]
    heads = ["comparison", "measure", "difference", "95% over seeds", "freedom", "own", "p, corrected", "says"]
    several = len(study.models) > 1
    yield markdown_lines(heads, [_answer_cells(answer, several) for answer in answers(study, results)])


def _answer_cells(answer: Answer, several: bool) -> list[str]:
    name = f"{answer.name} ({answer.model})" if several else answer.name
    name = name if answer.planned else f"{name}, not planned"
    difference, own = answer.difference, answer.own
    if difference is None or own is None:
        return [name, answer.measure, "", "", "", "", "", "cannot tell"]
    shown = answer.corrected is not None and answer.corrected <= LEVEL
    word = "" if not answer.planned else "shown" if shown else "not shown"
    corrected = "" if answer.corrected is None else f"{answer.corrected:.3f}"
    return [
        name,
        answer.measure,
        points(difference.difference),
        interval(difference.low, difference.high),
        f"{difference.freedom:.0f}",
        interval(own.low, own.high),
        corrected,
        word,
    ]


def _incomplete(results: Results) -> str:
    return f"**Not complete: {results.finished} of {results.wanted} runs are finished.** This page shows only those."


def _starting_points(results: Results) -> Iterator[str]:
    """Warnings if runs of one model started from different weights or problems, or do not record them."""
    for model in sorted({row.model for row in results.rows}):
        bench = results.benches(model)[0]
        records = [record for row in results.of(model, bench) if row.system != BASE for record in row.records]
        starts: dict[str, list[str]] = {}  # starting point -> runs
        for record in records:
            if start := record.get("starts_from"):
                starts.setdefault(json.dumps(start, sort_keys=True), []).append(f"{record['system']}-{record['seed']}")
        known = sum(map(len, starts.values()))
        if len(starts) > 1:
            most = max(starts.values(), key=len)
            others = "; ".join(", ".join(runs) for runs in starts.values() if runs is not most)
            yield (
                f"**Runs of {model} have {len(starts)} starting points**: their models or problem sets are not the "
                "same files (`starts_from` in the records), so a difference between two groups may come from these and "
                "not from the method. "
                f"{len(most)} runs share one; the others are {others}."
            )
        if 0 < known < len(records):
            words = f"{len(records) - known} of {len(records)} runs of {model} do not record which weights and"
            yield f"{words} problems they started from."


def _tables(study: Study, results: Results, model: str, bench: str) -> Iterator[list[str]]:
    rows = results.of(model, bench)
    n, problems = rows[0].mean("n") or 0, rows[0].mean("problems") or 0
    yield [f"## {model}: {bench}, Average@{n:.0f} of {problems:.0f} problems"]
    to = study.systems[study.baseline].title
    heads = ["system", "seeds", "Average, %", f"minus {to}", "95% over seeds", "p, corrected"]
    heads += [WANTED_COLUMN, "95% over problems", "greedy, %", "pass@k, %", "distinct answers", "mean tokens"]
    yield markdown_lines(heads, [_cells(row) for row in rows])
    if bench == results.benches(model)[0]:
        costs = [_cost_cells(row) for row in rows if row.system != BASE]
        yield markdown_lines(["system", "rate", "s a step", "of it rollouts", "peak MiB"], costs)
        yield [
            "Seconds are those of each system's fastest run, beside whatever else the machine did, so they do not "
            "compare systems; memory is that of the whole process."
        ]


def _cells(row: Row) -> list[str]:
    error, over = row.error()
    average = with_error(sum(row.final) / len(row.final), error)
    passes = row.pass_at()
    cells = [row.title, str(len(row.final)), f"{average} ({over})", *_difference_cells(row)]
    return [
        *cells,
        percent(row.mean("greedy")),
        f"{percent(passes[1])} (k = {passes[0]})" if passes else "",
        _number(row.mean("distinct_answers"), ".2f"),
        _number(row.mean("mean_tokens"), ".0f"),
    ]


def _difference_cells(row: Row) -> list[str]:
    if row.difference is None:
        return [""] * 5
    over, problems = row.difference.over_seeds, row.difference.over_problems
    corrected, wanted = row.difference.corrected, wanted_seeds(row)
    return [
        points(over.difference),
        interval(over.low, over.high),
        "" if corrected is None else f"{corrected:.3f}",
        "" if wanted is None or row.system == BASE else f"{wanted} seeds",
        interval(problems.low, problems.high),
    ]


def _cost_cells(row: Row) -> list[str]:
    # other work on the machine can only slow a run down, so the fastest run is the best measure
    fastest = min(row.records, key=lambda record: record["seconds_per_step"])
    seconds, rollouts = fastest["seconds_per_step"], fastest["rollout_seconds_per_step"]
    rates = ", ".join(f"{rate:g}" for rate in sorted({record["rate"] for record in row.records}))
    peak = max(record["peak_memory_bytes"] for record in row.records) / 2**20
    return [row.title, rates, f"{seconds:.2f}", f"{rollouts:.2f}", f"{peak:,.0f}"]


def _rates(study: Study) -> Iterator[list[str]]:
    runs = searched(study)
    if not runs or study.search is None:
        return
    yield ["## The search of the rates"]
    yield [
        f"{study.search.steps} steps of the first system of each family, Average@{study.search.n} on "
        f"`{study.search.bench}`; the best one is taken."
    ]
    rows = [
        [
            run.model,
            study.systems[run.system].family or "",
            study.systems[run.system].title,
            f"{run.rate:g}",
            "missing" if score is None else percent(score),
        ]
        for run, score in runs
    ]
    yield markdown_lines(["model", "family", "system", "rate", "Average, %"], rows)


def _energies(study: Study, results: Results) -> Iterator[list[str]]:
    """A table of the flow's energy over depth, with the values that the paper reports."""
    rows = []
    for row in (row for model in study.models for row in results.systems(model)):
        if energy := row.energy:
            share, place = energy["largest"]["share"], f"{energy['largest']['layer']} of {len(energy['layers'])}"
            rows.append([f"{row.title} ({row.model})", place, percent(share), f"{energy['entropy']:.2f}"])
    if not rows:
        return
    rows += [
        [f"the paper's PHF ({name})", f"? of {layers}", percent(share), f"{entropy:.2f}"]
        for name, layers, share, entropy in PAPER
    ]
    yield ["## Where the flow's energy lies, at the end"]
    yield markdown_lines(["run (first seed)", "largest layer", "its share, %", "entropy, nats"], rows)


def _sources(study: Study, path: Path) -> Iterator[list[str]]:
    yield ["## Where each figure is from"]
    yield [
        "One record a run, with its settings, scores by problem, metrics by step and versions. Intervals over seeds: "
        "Student's t on the differences paired by seed (same first adapter, same order of problems): would another "
        "training differ? Intervals over problems: the two checkpoints of the first seed on problems drawn anew."
    ]
    yield [f"- {_source(run, path)}" for run in runs_of(study)]


def _source(run: StudyRun, path: Path) -> str:
    if not run.record.is_file():
        return f"{run.name}: missing"
    return f"[`{run.name}.json`]({os.path.relpath(run.record, path.parent)})"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
