"""Reads evaluations from disk for a comparison: run, scores, settings and samples."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from phfcli.core.errors import UserError
from phfcli.core.grading import Status
from phfcli.core.printable import printable
from phfcli.core.runs.layout import is_run
from phfcli.core.settings import read_yaml
from phfcli.core.storage.files import read_json, read_lines

_OLDER = re.compile(r"-n\d+-step-\d{6,}$")  # ends the folder of an evaluation of an older checkpoint
_FREE = ("seed", "output_dir", "keep", "checkpoint_every", "vllm", "http", "device")  # which make no other method


@dataclass(frozen=True)
class SavedSample:
    """The fields of a line of samples.jsonl that a comparison needs."""

    number: int
    status: str
    answer: str | None

    @property
    def correct(self) -> bool:
        return self.status == Status.correct


@dataclass(frozen=True)
class SavedEvaluation:
    """One evaluation of one benchmark.

    Attributes:
        name: of the run or model, or as the user calls it.
        method: what it is a seed of, as a hashable whole; seeds of one method have the same.
        objective: of the run, "base" for a model without an adapter, else the name.
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
    for text in paths:
        name, path = named_path(text)
        found = _most_samples([_load(file, name) for file in summaries_of(path, all_steps)])
        wanted = [r for r in found if not benches or r.bench in benches]
        if not wanted:
            what = f"of {', '.join(benches)} " if benches else ""
            raise UserError(f"{path}: no evaluation {what}found; run `phf eval {path}` first")
        results += wanted
    return results if all_steps else _distinct(results)


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
        step = read_json(path / "trainer.json")["step"]
        found = sorted((path.parents[1] / "evals").glob("*/summary.json"))
        return [file for file in found if read_json(file).get("step") == step]
    found = sorted((path / "evals").glob("*/summary.json"))
    return [p for p in found if all_steps or not _OLDER.search(p.parent.name)]


def _load(path: Path, name: str | None) -> SavedEvaluation:
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise UserError(f"{path}: not a summary: expected an object with named fields")
    missing = [key for key in ("bench", "average", "target") if key not in summary]
    if missing:
        raise UserError(f"{path}: not a summary of an evaluation: {', '.join(missing)} missing")
    alone = path.name != "summary.json"  # a file from elsewhere: what lies beside it is another's
    samples, golds = ({}, {}) if alone else _samples(path.parent / "samples.jsonl")
    scores = {problem: [float(s.correct) for s in drawn] for problem, drawn in samples.items()}
    settings_file = path.parent / "settings.json"
    settings = read_json(settings_file) if settings_file.is_file() and not alone else {}
    told = {key: summary[key] for key in ("bench_sha256", "sampling", "n", "engine", "prompt") if key in summary}
    run = _home(path.parent)
    home = str((path if alone else run).resolve())
    config = read_yaml(run / "config.yaml") if is_run(run) and not alone else {}
    base = "adapter_sha256" in settings and settings["adapter_sha256"] is None
    own = printable(str(summary["target"]))
    kept = {key: value for key, value in config.items() if key not in _FREE}
    began = config.get("model") if base else None  # of a run of all weights, whose checkpoints are models themselves
    model = began or settings.get("model", {}).get("name") or summary.get("model") or "-"
    return SavedEvaluation(
        name=name or own,
        method=name or (json.dumps(kept, sort_keys=True) if config else home),
        objective=name or config.get("objective") or ("base" if base else own),
        home=home,
        model=printable(Path(str(model)).name),
        summary={"stderr": None, **summary},
        settings=told | settings,
        folder=path.parent,
        samples=samples,
        scores=scores or _told_scores(path, summary.get("scores", {})),
        golds=golds,
        seed=config.get("seed"),
    )


def _told_scores(path: Path, scores: Any) -> dict[str, list[float]]:
    """The scores that a summary file holds itself."""
    try:
        return {str(problem): [float(score) for score in own] for problem, own in scores.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path}: scores: expected a list of numbers for each problem") from None


def _most_samples(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """Keeps the evaluation with the most samples for each checkpoint and benchmark."""
    kept: dict[tuple[str, str, int | None], SavedEvaluation] = {}
    for result in sorted(results, key=lambda result: result.summary.get("n") or 0):
        kept[result.home, result.bench, result.step] = result
    return [result for result in results if kept[result.home, result.bench, result.step] is result]


def _samples(path: Path) -> tuple[dict[str, list[SavedSample]], dict[str, str | None]]:
    """The samples of each problem, each key once, and the gold answers."""
    keyed: dict[tuple[str, int], SavedSample] = {}
    golds: dict[str, str | None] = {}
    for line in read_lines(path):
        keyed[line["problem"], line["sample"]] = SavedSample(line["sample"], line["status"], line["answer"])
        golds[line["problem"]] = line.get("gold")
    drawn: dict[str, list[SavedSample]] = {}
    for (problem, _), sample in sorted(keyed.items()):
        drawn.setdefault(problem, []).append(sample)
    return drawn, golds


def _home(folder: Path) -> Path:
    """The run that an evaluation's folder belongs to; the folder itself where it stands alone."""
    return folder.parents[1] if folder.parent.name == "evals" else folder


def _distinct(results: list[SavedEvaluation]) -> list[SavedEvaluation]:
    """Adds the run's folder, the step or a number to names that occur twice on one benchmark."""
    seen: dict[tuple[str, str, str], int] = {}
    distinct = []
    for result in results:
        key = (result.model, result.bench, result.name)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            home = printable(_home(result.folder).name)
            mark = home if home not in ("", result.name) else result.step or seen[key]
            result = replace(result, name=f"{result.name} ({mark})")
        distinct.append(result)
    return distinct
