"""The summary of an evaluation and the samples beside it: both agree, or nothing of them is read.

A summary holds size, time and sha256 of the other files of its folder. Samples that were drawn since then stand behind
those that it covers. A summary of an earlier version holds none: its average is compared with that of the samples.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.runs.folder import step_of
from phfcli.core.storage.schemas import SampleForm, SummaryForm, check_forms, each_form, read_form
from phfcli.core.storage.seals import write_sealed

SAMPLES, GREEDY = "samples.jsonl", "greedy.jsonl"
_SHOWN = (SAMPLES, GREEDY, "settings.json")  # what readers of a summary read beside it
_COVERED = (*_SHOWN, "samples.parquet", "samples.html")
_ROUNDING = 1e-6


def write_summary(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json, the last file of an evaluation, and returns its content."""
    covered = {name: _stamp(folder / name) for name in _COVERED if (folder / name).is_file()}
    write_sealed(folder / "summary.json", {**summary, "files": covered})
    return {**summary, "files": covered}


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of an evaluation that agrees with its samples and settings.

    The contents of these files are compared where their size or time is not what it was.

    Raises:
        UserError: names the file that has changed or is missing, the average that is not that of the samples, or the
            step that is not that of its folder.
    """
    summary = read_form(path, SummaryForm)
    if path.name != "summary.json":  # the files beside it belong to another evaluation
        return summary
    step, named = summary.get("step"), step_of(path.parents[1].name)
    if None not in (step, named) and step != named:
        raise UserError(f"{path}: is of step {step}, and lies among the evaluations of step {named}")
    shown = [name for name in _SHOWN if (path.parent / name).is_file()]  # none of a summary that was copied alone
    for name, stamp in summary.get("files", {}).items():
        if name in _SHOWN and shown:
            _check_stamp(path.parent / name, stamp, every_byte=False)
    if "files" not in summary:
        check_average(path, summary, _scores(path.parent / SAMPLES))
    return summary


def check_covered(folder: Path, files: Iterable[Path]) -> None:
    """Compares every byte of files with their sums in the summary. Raises UserError, naming the file that differs."""
    covered = read_form(folder / "summary.json", SummaryForm).get("files", {})
    for path in files:
        if path.name in covered:
            _check_stamp(path, covered[path.name], every_byte=True)


def check_average(path: Path, summary: Mapping[str, Any], scores: Mapping[str, list[float]]) -> None:
    """Raises UserError if the average in a summary is not that of the samples' scores."""
    complete = [values for values in scores.values() if len(values) == summary.get("n", len(values))]
    if not scores or len(complete) != summary.get("problems", len(complete)):
        return  # the samples are those of a stopped or of a larger evaluation
    computed = fmean(map(fmean, complete))
    if abs(computed - summary["average"]) > _ROUNDING:
        raise UserError(
            f"{path}: average is {summary['average']}, and the samples beside it give {computed:.6g}; evaluate again"
        )


def _scores(samples: Path) -> dict[str, list[float]]:
    keyed = {(s["problem"], s["sample"]): float(s["status"] == "correct") for s in each_form(samples, SampleForm)}
    scores: dict[str, list[float]] = {}
    for (problem, _), score in keyed.items():
        scores.setdefault(problem, []).append(score)
    return scores


def _stamp(path: Path) -> dict[str, Any]:
    about = path.stat()
    return {"size": about.st_size, "time": about.st_mtime_ns, "sha256": _hash(path, about.st_size)}


def _check_stamp(path: Path, stamp: Mapping[str, Any], every_byte: bool) -> None:
    if not path.is_file():
        raise UserError(f"{path}: is missing, and the summary beside it was made with it; evaluate again")
    about, size = path.stat(), stamp["size"]
    if not every_byte and (about.st_size, about.st_mtime_ns) == (size, stamp["time"]):
        return
    longer = about.st_size > size and path.name in (SAMPLES, GREEDY)  # by samples that were drawn since then
    if not (longer or about.st_size == size) or _hash(path, size) != stamp["sha256"]:
        if path.name in (SAMPLES, GREEDY):
            check_forms(path, SampleForm)  # which names the line
        raise UserError(f"{path}: damaged: it is not the file that the summary beside it was made with (checksum)")


def _hash(path: Path, size: int) -> str:
    """The sha256 of a file's first bytes."""
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while part := file.read(min(left, 1 << 20)):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()
