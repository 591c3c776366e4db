"""Reads evaluations from disk for a comparison: run, scores, settings and samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phfcli.core.errors import UserError, printable
from phfcli.core.evaluation.scores import average
from phfcli.core.grading import Status
from phfcli.core.runs.folder import evaluation_files, is_run, run_name, run_of_evaluation, saved_config
from phfcli.core.storage.schemas import (
    EvaluationSettingsForm,
    SampleForm,
    SummaryForm,
    TrainerForm,
    read_form,
    read_forms,
)

_ROUNDING = 1e-6
_FREE = ("seed", "output_dir", "keep", "checkpoint_every", "vllm", "http", "device")  # which make no other method


@dataclass(frozen=True)
class SavedSample:
    """The fields of a line of samples.jsonl that a comparison needs."""

    number: int
    status: str
    answer: str | None
    tokens: int = 0

    @property
    def correct(self) -> bool:
        return self.status == Status.correct


@dataclass(frozen=True)
class SavedEvaluation:
    """One evaluation of one benchmark.

    Attributes:
        name: of the run's folder, or as the user calls it; a file that stands alone says its own.
        method: what it is a seed of, as a hashable whole; seeds of one method have the same.
        objective: of the run, else the name.
        home: the run that it belongs to, or the file that stands alone.
        scores: 0 or 1 of each sample by problem; empty for a summary from elsewhere that does not tell them.
        settings: of the sampling, as far as they are known.
    """

    name: str
    method: str
    objective: str
    home: str
    model: str
    summary: dict[str, Any]
    settings: dict[str, Any]
    folder: Path
    samples: dict[str, list[SavedSample]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    golds: dict[str, str | None] = field(default_factory=dict)
    seed: int | None = None

    @property
    def bench(self) -> str:
        return printable(str(self.summary["bench"]))

    @property
    def step(self) -> int | None:
        return self.summary.get("step")

    def link(self, problem: str, number: int | None = None) -> str:
        """Where samples.html shows a problem, or one sample of it."""
        part = "" if number is None else f"/{number}"
        return f"{quote(str(self.folder))}/samples.html#{quote(problem, safe='')}{part}"


def load_evaluations(paths: list[str], benches: list[str], all_steps: bool = False) -> list[SavedEvaluation]:
    """The evaluations of runs, checkpoints, evaluation folders or summary files; NAME=PATH gives one a name.

    Args:
        benches: only these benchmarks, if any are named.
        all_steps: of a run also those of its older checkpoints.

    Raises:
        UserError: for a path without an evaluation, or a summary that lacks a field.
    """
    results = []
    given: dict[tuple[str, Path, str, int | None], str] = {}
    for text in paths:
        name, path = named_path(text)
        found = _most_samples([_load(file, name) for file in summaries_of(path, all_steps)])
        wanted = [r for r in found if not benches or r.bench in benches]
        if not wanted:
            what = f"of {', '.join(benches)} " if benches else ""
            raise UserError(f"{path}: no evaluation {what}found; {_evaluating(path)}")
        for own in wanted:
            key = own.home, own.folder.resolve(), own.bench, own.step
            if key in given:
                raise UserError(
                    f"{text}: is the same evaluation of {own.bench} as {given[key]}; give each of them once"
                )
            given[key] = text
        results += wanted
    return results if all_steps else _distinct(results)


def _evaluating(path: Path) -> str:
    """How an evaluation comes into a folder: of a run or a checkpoint is known what is evaluated, else it is named."""
    if is_run(path) or path.parent.name == "checkpoints":
        return f"run `phf eval {path}` first"
    return f"it is no training run; `phf eval` with output_dir={path} evaluates a model into it"


def named_path(text: str) -> tuple[str | None, Path]:
    """The name and the path of NAME=PATH; the name is None where only a path is given."""
    name, equals, path = text.partition("=")
    return (printable(name), Path(path)) if equals and name and not Path(text).exists() else (None, Path(text))


def summaries_of(path: Path, all_steps: bool) -> list[Path]:
    """The summary files of a run, a checkpoint or an evaluation's folder, or the one that is given.

    Raises:
        UserError: for a path to nothing.
    """
    if path.is_file():
        return [path]
    if (path / "summary.json").is_file():
        return [path / "summary.json"]
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint or summary")
    if path.parent.name == "checkpoints" and (path / "trainer.json").is_file():
        step = read_form(path / "trainer.json", TrainerForm)["step"]
        found = evaluation_files(path.parents[1], "summary.json")
        return [file for file in found if read_form(file, SummaryForm).get("step") == step]
    found = evaluation_files(path, "summary.json")
    return found if all_steps else _newest(found)


def name_of(summary: Path) -> str:
    """What the evaluation with this summary file is called: as its run's folder, or as it says where it has none."""
    own = run_name(summary.parent) if summary.name == "summary.json" else None
    return printable(own or str(read_form(summary, SummaryForm)["target"]))


def _newest(summaries: list[Path]) -> list[Path]:
    """Of each benchmark the evaluations of the newest step."""
    told = {path: read_form(path, SummaryForm) for path in summaries}
    steps: dict[str, int] = {}
    for summary in told.values():
        bench = str(summary.get("bench"))
        steps[bench] = max(steps.get(bench, 0), summary.get("step") or 0)
    return [path for path, summary in told.items() if (summary.get("step") or 0) == steps[str(summary.get("bench"))]]


def _load(path: Path, name: str | None) -> SavedEvaluation:
    summary = read_form(path, SummaryForm)
    alone = path.name != "summary.json"  # a file from elsewhere: what lies beside it is another's
    samples, golds = ({}, {}) if alone else _samples(path.parent / "samples.jsonl")
    scores = {problem: [float(s.correct) for s in drawn] for problem, drawn in samples.items()}
    scores = scores or {problem: list(map(float, own)) for problem, own in summary.get("scores", {}).items()}
    _check_average(path, summary, scores)
    settings_file = path.parent / "settings.json"
    settings = read_form(settings_file, EvaluationSettingsForm) if settings_file.is_file() and not alone else {}
    told = {
        key: summary[key] for key in ("bench_sha256", "sampling", "n", "engine", "prompt", "grading") if key in summary
    }
    run = run_of_evaluation(path.parent)
    home = str((path if alone else run).resolve())
    config = saved_config(run).tree if is_run(run) and not alone else {}
    base = "adapter_sha256" in settings and settings["adapter_sha256"] is None
    own = name_of(path)
    kept = {key: value for key, value in config.items() if key not in _FREE}
    began = config.get("model") if base else None  # of a run of all weights, whose checkpoints are models themselves
    model = began or settings.get("model", {}).get("name") or summary.get("model") or "-"
    return SavedEvaluation(
        name=name or own,
        method=name or (json.dumps(kept, sort_keys=True) if config else home),
        objective=name or config.get("objective") or own,
        home=home,
        model=printable(Path(str(model)).name),
        summary={"stderr": None, **summary},
        settings={"grading": "phf"} | told | settings,
        folder=path.parent,
        samples=samples,
        scores=scores,
        golds=golds,
        seed=config.get("seed"),
    )


def _check_average(path: Path, summary: dict[str, Any], scores: dict[str, list[float]]) -> None:
    """Raises UserError for a summary that says another score than its samples do."""
    wanted = {problem: own for problem, own in scores.items() if len(own) == summary.get("n", len(own))}
    if not scores or len(wanted) != summary.get("problems", len(wanted)):
        return  # samples of a stopped or a larger evaluation: the summary is of others
    own = average(list(wanted.values())).average
    if abs(own - summary["average"]) > _ROUNDING:
        raise UserError(
            f"{path}: average is {summary['average']}, and the samples beside it give {own:.6g}; evaluate again"
        )


def _most_samples(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """Keeps the evaluation with the most samples for each checkpoint and benchmark."""
    kept: dict[tuple[str, str, int | None], SavedEvaluation] = {}
    # where sampling settings differ, the evaluation in the folder of the plain name counts
    for result in sorted(results, key=lambda result: (_has_plain_name(result), result.summary.get("n") or 0)):
        kept[result.home, result.bench, result.step] = result
    return [result for result in results if kept[result.home, result.bench, result.step] is result]


def _has_plain_name(result: SavedEvaluation) -> bool:
    return result.folder.name.startswith(f"{result.bench}-n{result.summary.get('n')}") and "+" not in result.folder.name


def _samples(path: Path) -> tuple[dict[str, list[SavedSample]], dict[str, str | None]]:
    """The samples of each problem, each key once, and the gold answers."""
    keyed: dict[tuple[str, int], SavedSample] = {}
    golds: dict[str, str | None] = {}
    for line in read_forms(path, SampleForm):
        keyed[line["problem"], line["sample"]] = SavedSample(
            line["sample"], line["status"], line["answer"], line.get("tokens", 0)
        )
        golds[line["problem"]] = line.get("gold")
    drawn: dict[str, list[SavedSample]] = {}
    for (problem, _), sample in sorted(keyed.items()):
        drawn.setdefault(problem, []).append(sample)
    return drawn, golds


def _distinct(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """The evaluations with names of which none occurs twice on one benchmark and model."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, result in enumerate(results):
        groups.setdefault((result.model, result.bench), []).append(place)
    named = list(results)
    for places in groups.values():
        own = [(results[place].name, run_of_evaluation(results[place].folder), results[place].step) for place in places]
        for place, name in zip(places, distinct_names(own), strict=True):
            named[place] = replace(results[place], name=name)
    return named


def distinct_names(runs: Sequence[tuple[str, Path, int | None]]) -> list[str]:
    """The names of (name, folder, step); one that stands there already is told apart by folder, step or number."""
    names: list[str] = []
    seen = set()
    for name, folder, step in runs:
        home = folder.resolve()
        marks = [str(step)] if (name, home) in seen else [home.name, home.parent.name]
        seen.add((name, home))
        marked = [f"{name} ({printable(mark)})" for mark in marks if mark not in (name, "", "None")]
        numbered = (f"{name} ({number})" for number in count(2))
        names.append(next(own for own in chain([name], marked, numbered) if own not in names))
    return names
