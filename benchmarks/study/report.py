"""The report of a study, made from the files of its runs and from nothing else; it may be half done."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml
from page import draw, page
from plan import Study, StudyRun, runs_of

from phfcli.core.storage.files import read_json, read_lines, write_json, write_text

# two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def write_report(study: Study, path: Path) -> None:
    """PATH.md, PATH.json and PATH.png; the JSON has every figure of every run with the file that it is from."""
    runs = [figures for run in runs_of(study) if (figures := read_run(run)) is not None]
    rows = [row for name in ("base", *study.systems) if (row := summarise(study, name, runs))]
    write_json(path.with_suffix(".json"), {"study": study.model_dump(mode="json"), "rows": rows, "runs": runs})
    draw(study, rows, path.with_suffix(".png"))
    write_text(path, page(study, rows, path))


def read_run(run: StudyRun) -> dict[str, Any] | None:
    """The figures of a run: its accuracy after each evaluated step, and what its steps cost. None without any."""
    evals = {step: read_json(run.summary(step)) for step in run.steps if run.summary(step).is_file()}
    if not evals:
        return None
    figures: dict[str, Any] = {
        "system": run.system or "base",
        "seed": run.seed,
        "folder": str(run.folder),
        "averages": {step: summary["average"] for step, summary in evals.items()},
        "files": {step: str(run.summary(step)) for step in evals},
    }
    if run.system is None:
        return figures
    lines = read_lines(run.folder / "metrics.jsonl")
    config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    return figures | {
        "git": read_json(run.folder / "manifest.json")["git"],
        "lr": config["optim"]["lr"],
        "steps": len(lines),
        # the first step also loads what is loaded lazily
        "seconds_per_step": median(line["seconds"] for line in lines[1:] or lines),
        "rollout_seconds_per_step": median(line["rollout_seconds"] for line in lines[1:] or lines),
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in lines),
    }


def summarise(study: Study, name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A row over seeds: the mean with its standard error at each step, and the difference to the baseline by seed."""
    last = 0 if name == "base" else study.steps[-1]
    own = {run["seed"]: run for run in runs if run["system"] == name and last in run["averages"]}
    if not own:
        return None
    base = {run["seed"]: run["averages"].get(study.steps[-1]) for run in runs if run["system"] == study.baseline}
    row: dict[str, Any] = {
        "system": name,
        "title": "base model" if name == "base" else study.systems[name].title,
        "seeds": sorted(own),
        "averages": {step: mean_and_error([r["averages"][step] for r in own.values()]) for step in _steps(own)},
    }
    pairs = [own[seed]["averages"][last] - base[seed] for seed in own if base.get(seed) is not None]
    if pairs and name != study.baseline:
        row["difference"] = difference(pairs)
    if name != "base":
        row["lr"] = sorted({run["lr"] for run in own.values()})
        # what else is at work only slows a run down
        row["seconds_per_step"] = min(run["seconds_per_step"] for run in own.values())
        row["peak_memory_bytes"] = max(run["peak_memory_bytes"] for run in own.values())
    return row


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """The mean over seeds and its standard error; None for one seed."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": fmean(values), "stderr": error}


def difference(pairs: Sequence[float]) -> dict[str, float | int | None]:
    """The mean of the seeds' differences, its standard error and 95% interval by Student's t; None for one pair."""
    about = mean_and_error(pairs)
    mean, error = about["mean"], about["stderr"]
    assert mean is not None
    if error is None:
        return {**about, "low": None, "high": None, "pairs": len(pairs)}
    half = error * (_T95[len(pairs) - 2] if len(pairs) - 2 < len(_T95) else 2.0)
    return {**about, "low": mean - half, "high": mean + half, "pairs": len(pairs)}


def _steps(own: dict[int, dict[str, Any]]) -> list[int]:
    """The steps that every seed has."""
    return sorted(set.intersection(*(set(run["averages"]) for run in own.values())))
