"""Reads evaluations from disk for a comparison: runs, scores, settings and samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phfcli.core.errors import UserError, printable
from phfcli.core.grading import Status
from phfcli.core.runs.folder import evaluation_files, is_run, run_name, run_of_evaluation, saved_config
from phfcli.core.runs.summaries import GREEDY, SAMPLES, check_average, read_summary
from phfcli.core.storage.schemas import (
    EvaluationSettingsForm,
    SampleForm,
    SummaryForm,
    TrainerForm,
    ValidationForm,
    each_form,
    read_form,
    read_forms,
)

_FREE = (
    "seed",
    "output_dir",
    "keep",
    "checkpoint_every",
    "vllm",
    "http",
    "device",
)  # settings in which runs of one method may differ


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
        name: the user's name, else that of the run's folder, else the one in the file.
        method: a key of the training method; runs that differ only in their seed have the same key.
        objective: the run's objective, else the name.
        home: the run of the evaluation, or its file if it lies outside of a run.
        scores: problem -> 0 or 1 for each sample; empty if a summary from another tool does not hold them.
        greedy: problem -> 0 or 1 for its greedy completion; empty if none was drawn.
        settings: the sampling settings, as far as they are known.
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
    greedy: dict[str, list[float]] = field(default_factory=dict)
    golds: dict[str, str | None] = field(default_factory=dict)
    seed: int | None = None

    @property
    def bench(self) -> str:
        return printable(str(self.summary["bench"]))

    @property
    def step(self) -> int | None:
        return self.summary.get("step")

    def link(self, problem: str, number: int | None = None) -> str:
        """The link to a problem, or to one of its samples, in samples.html."""
        part = "" if number is None else f"/{number}"
        return f"{quote(str(self.folder))}/samples.html#{quote(problem, safe='')}{part}"


def load_evaluations(paths: list[str], benches: list[str], all_steps: bool = False) -> list[SavedEvaluation]:
    """The evaluations of runs, checkpoints, evaluation folders or summary files.

    Args:
        paths: each PATH or NAME=PATH, which names the evaluations of that path.
        benches: the benchmarks to keep; empty keeps all.
        all_steps: whether the evaluations of a run's older checkpoints are read too.

    Raises:
        UserError: a path without an evaluation, an evaluation that is given twice, or a summary that lacks a field.
    """
    results = []
    given: dict[tuple[str, Path, str, int | None], str] = {}
    for text in paths:
        name, path = named_path(text)
        loaded = _most_samples([_load(file, name) for file in summaries_of(path, all_steps)])
        wanted = [r for r in loaded if not benches or r.bench in benches]
        if not wanted:
            what = f"of {', '.join(benches)} " if benches else ""
            raise UserError(f"{path}: no evaluation {what}found; {_how_to_evaluate(path)}")
        for evaluation in wanted:
            key = evaluation.home, evaluation.folder.resolve(), evaluation.bench, evaluation.step
            if key in given:
                raise UserError(
                    f"{text}: is the same evaluation of {evaluation.bench} as {given[key]}; give each of them once"
                )
            given[key] = text
        results += wanted
    return results if all_steps else _distinct(results)


def steps_of(result: SavedEvaluation) -> dict[int, SavedEvaluation]:
    """Step -> evaluation of the same run on the same benchmark, sampled alike; only the given one outside of a run."""
    if result.step is None or not is_run(Path(result.home)):
        return {}
    files = evaluation_files(Path(result.home), "summary.json")
    same = [file for file in files if read_form(file, SummaryForm).get("bench") == result.summary["bench"]]
    loaded = [_load(file, None) for file in same if file.parent != result.folder] if len(same) > 1 else []
    alike = ("sampling", "prompt", "grading", "n")
    kept = [r for r in loaded if all(r.settings.get(key) == result.settings.get(key) for key in alike)]
    return {r.step: r for r in [*kept, result] if r.step is not None}


def validated_steps(result: SavedEvaluation) -> dict[int, float]:
    """Step -> average of the evaluations that training itself made on the same benchmark; `best` is chosen by them."""
    lines = read_forms(Path(result.home) / "evaluations.jsonl", ValidationForm) if is_run(Path(result.home)) else []
    return {line["step"]: line["average"] for line in lines if line["bench"] == result.summary["bench"]}


def _how_to_evaluate(path: Path) -> str:
    """Advice on how to make an evaluation in a folder."""
    if is_run(path) or path.parent.name == "checkpoints":
        return f"run `phf eval {path}` first"
    return f"it is no training run; `phf eval` with output_dir={path} evaluates a model into it"


def named_path(text: str) -> tuple[str | None, Path]:
    """The name and the path of NAME=PATH; the name is None if only a path is given."""
    name, equals, path = text.partition("=")
    return (printable(name), Path(path)) if equals and name and not Path(text).exists() else (None, Path(text))


def summaries_of(path: Path, all_steps: bool) -> list[Path]:
    """The summary files of a run, a checkpoint or an evaluation's folder, or the given file itself.

    Raises:
        UserError: the path does not exist.
    """
    if path.is_file():
        return [path]
    if (path / "summary.json").is_file():
        return [path / "summary.json"]
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint or summary")
    if path.parent.name == "checkpoints" and (path / "trainer.json").is_file():
        step = read_form(path / "trainer.json", TrainerForm)["step"]
        files = evaluation_files(path.parents[1], "summary.json")
        return [file for file in files if read_form(file, SummaryForm).get("step") == step]
    files = evaluation_files(path, "summary.json")
    return files if all_steps else _newest(files)


def name_of(summary: Path) -> str:
    """The name of an evaluation: that of its run's folder, or outside of a run the target in the summary."""
    run = run_name(summary.parent) if summary.name == "summary.json" else None
    return printable(run or str(read_form(summary, SummaryForm)["target"]))


def _newest(summaries: list[Path]) -> list[Path]:
    """The evaluations of the newest step, for each benchmark."""
    contents = {path: read_form(path, SummaryForm) for path in summaries}
    steps: dict[str, int] = {}
    for summary in contents.values():
        bench = str(summary.get("bench"))
        steps[bench] = max(steps.get(bench, 0), summary.get("step") or 0)
    return [
        path for path, summary in contents.items() if (summary.get("step") or 0) == steps[str(summary.get("bench"))]
    ]


def _load(path: Path, name: str | None) -> SavedEvaluation:
    summary = read_summary(path)
    alone = path.name != "summary.json"  # a summary of another name: the files beside it belong to another evaluation
    samples, golds = ({}, {}) if alone else _samples(path.parent / SAMPLES)
    stored = {problem: list(map(float, values)) for problem, values in summary.get("scores", {}).items()}
    scores = _scores(samples) or stored
    check_average(path, summary, scores)
    settings_file = path.parent / "settings.json"
    settings = read_form(settings_file, EvaluationSettingsForm) if settings_file.is_file() and not alone else {}
    recorded = {
        key: summary[key] for key in ("bench_sha256", "sampling", "n", "engine", "prompt", "grading") if key in summary
    }
    run = run_of_evaluation(path.parent)
    home = str((path if alone else run).resolve())
    config = saved_config(run).tree if is_run(run) and not alone else {}
    no_adapter = "adapter_sha256" in settings and settings["adapter_sha256"] is None
    own_name = name_of(path)
    kept = {key: value for key, value in config.items() if key not in _FREE}
    # a checkpoint of all weights is a model itself; its run names the model from which training started
    origin = config.get("model") if no_adapter else None
    model = origin or settings.get("model", {}).get("name") or summary.get("model") or "-"
    return SavedEvaluation(
        name=name or own_name,
        method=name or (json.dumps(kept, sort_keys=True) if config else home),
        objective=name or config.get("objective") or own_name,
        home=home,
        model=printable(Path(str(model)).name),
        summary={"stderr": None, **summary},
        settings={"grading": "phf"} | recorded | settings,
        folder=path.parent,
        samples=samples,
        scores=scores,
        greedy={} if alone or summary.get("greedy") is None else _scores(_samples(path.parent / GREEDY)[0]),
        golds=golds,
        seed=config.get("seed"),
    )


def _scores(samples: dict[str, list[SavedSample]]) -> dict[str, list[float]]:
    return {problem: [float(sample.correct) for sample in drawn] for problem, drawn in samples.items()}


def _most_samples(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """Keeps, for each checkpoint and benchmark, the evaluation with the most samples."""
    kept: dict[tuple[str, str, int | None], SavedEvaluation] = {}
    # among evaluations of other sampling settings, the one in the folder without added settings counts
    for result in sorted(results, key=lambda result: (_has_plain_name(result), result.summary.get("n") or 0)):
        kept[result.home, result.bench, result.step] = result
    return [result for result in results if kept[result.home, result.bench, result.step] is result]


def _has_plain_name(result: SavedEvaluation) -> bool:
    return result.folder.name.startswith(f"{result.bench}-n{result.summary.get('n')}") and "+" not in result.folder.name


def _samples(path: Path) -> tuple[dict[str, list[SavedSample]], dict[str, str | None]]:
    """Problem -> samples, without repeated lines, and problem -> gold answer."""
    keyed: dict[tuple[str, int], SavedSample] = {}
    golds: dict[str, str | None] = {}
    for line in each_form(path, SampleForm):
        keyed[line["problem"], line["sample"]] = SavedSample(
            line["sample"], line["status"], line["answer"], line.get("tokens", 0)
        )
        golds[line["problem"]] = line.get("gold")
    drawn: dict[str, list[SavedSample]] = {}
    for (problem, _), sample in sorted(keyed.items()):
        drawn.setdefault(problem, []).append(sample)
    return drawn, golds


def _distinct(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """The evaluations renamed so that no name occurs twice on one benchmark and model."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index, result in enumerate(results):
        groups.setdefault((result.model, result.bench), []).append(index)
    named = list(results)
    for indices in groups.values():
        runs = [(results[i].name, run_of_evaluation(results[i].folder), results[i].step) for i in indices]
        for index, name in zip(indices, distinct_names(runs), strict=True):
            named[index] = replace(results[index], name=name)
    return named


def distinct_names(runs: Sequence[tuple[str, Path, int | None]]) -> list[str]:
    """A distinct name for each (name, folder, step); a repeated name gets the folder, the step or a number added."""
    names: list[str] = []
    seen = set()
    for name, folder, step in runs:
        home = folder.resolve()
        marks = [str(step)] if (name, home) in seen else [home.name, home.parent.name]
        seen.add((name, home))
        marked = [f"{name} ({printable(mark)})" for mark in marks if mark not in (name, "", "None")]
        numbered = (f"{name} ({number})" for number in count(2))
        names.append(next(candidate for candidate in chain([name], marked, numbered) if candidate not in names))
    return names
