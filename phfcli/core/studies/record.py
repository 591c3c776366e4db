"""The record of a finished run: the one file that the page is made from, small enough to be kept with the code.

It holds the settings that the study gave, what each evaluation found, what the steps cost and, where flows were saved,
the energy of each layer. A study takes a run for finished when its record is there and of the same settings.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, NonNegativeInt, StrictStr

from phfcli.core.analysis.diagnose import diagnose_file
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import load_evaluations
from phfcli.core.retired import without_retired
from phfcli.core.runs.folder import evaluation_folder, step_name
from phfcli.core.settings import read_yaml
from phfcli.core.step_metrics import MACHINE_METRICS
from phfcli.core.storage.files import as_json, file_hash, read_json, write_json
from phfcli.core.storage.schemas import Form, Share, StepForm, read_form, read_forms
from phfcli.core.studies.study_file import StudyRun

_EVALUATION = (
    "n",
    "problems",
    "average",
    "stderr",
    "pass_at_k",
    "majority",
    "truncated_share",
    "mean_tokens",
    "seconds",
)
_COSTS = ("step", *MACHINE_METRICS)  # told apart, or of no interest
_DIGITS = 6  # of what is drawn and not compared


class EvaluationRecord(Form):
    """an evaluation in a record"""

    average: Share
    stderr: Annotated[FiniteFloat, Field(ge=0)] | None
    n: NonNegativeInt
    scores: dict[str, Share]  # of each problem, the share of its samples that were right


class RecordForm(Form):
    """a record of a study"""

    model: StrictStr
    system: StrictStr
    seed: int
    settings: dict[str, Any]
    evaluation_settings: dict[str, Any]
    evaluations: dict[str, dict[str, EvaluationRecord]]  # by step, then by benchmark
    seconds_per_step: FiniteFloat | None = None
    peak_memory_bytes: FiniteFloat | None = None
    rate: FiniteFloat | None = None
    energy: dict[str, Any] | None = None
    starts_from: dict[str, StrictStr] | None = None  # what tells the model and the data, whose names may stay the same


def finished(run: StudyRun) -> bool:
    """Whether the run has a record. Raises UserError as `read_record` does."""
    return read_record(run) is not None


def read_record(run: StudyRun) -> dict[str, Any] | None:
    """The record of a run; None for a run that is not finished.

    Raises:
        UserError: for a record of other settings than the study's file has now, or of another form.
    """
    if not run.record.is_file():
        return None
    record = read_form(run.record, RecordForm)
    given = settings_of(run)
    if {key: without_retired(record[key], str(run.record)) for key in given} != given:
        raise UserError(
            f"{run.record}: is a run of other settings than the study's file has now; "
            "move it and its folder away, or give the study other folders"
        )
    return record


def settings_of(run: StudyRun) -> dict[str, Any]:
    """What the study gives a run, as JSON has it."""
    training = run.training() if run.trains else {}
    return {"settings": as_json(training), "evaluation_settings": as_json(run.evaluation())}


def write_record(run: StudyRun) -> None:
    """Makes the record from the run's own files. Raises UserError where an evaluation is missing."""
    record: dict[str, Any] = {"model": run.model, "system": run.system, "seed": run.seed, **settings_of(run)}
    record["evaluations"] = {str(step): _evaluations(run, step) for step in run.evaluated}
    if run.trains:
        record |= _training(run.folder)
    write_json(run.record, record)


def _evaluations(run: StudyRun, step: int) -> dict[str, Any]:
    """By benchmark what was found after a step."""
    files = sorted(evaluation_folder(run.folder, step or None, "*").parent.glob("*/summary.json"))
    if not files:
        raise UserError(f"{run.folder}: no evaluation of step {step} was found; give the study again")
    found = {}
    for saved in load_evaluations([str(file) for file in files], []):
        told = {key: saved.summary[key] for key in _EVALUATION if key in saved.summary}
        found[saved.bench] = told | {
            "distinct_answers": fmean(len({sample.answer for sample in own}) for own in saved.samples.values()),
            "scores": {problem: fmean(own) for problem, own in saved.scores.items()},
            "file": str((saved.folder / "summary.json").relative_to(run.folder)),
        }
    return found


def _training(folder: Path) -> dict[str, Any]:
    """What the steps cost, where the run comes from, how its metrics went."""
    lines = read_forms(folder / "metrics.jsonl", StepForm)
    manifest = read_json(folder / "manifest.json")
    config = read_yaml(folder / "config.yaml")
    timed = lines[1:] or lines  # the first step also loads what is loaded lazily
    return {
        "rate": config["optim"]["lr"],
        "git": manifest.get("git"),
        "versions": manifest.get("versions"),
        "device": manifest.get("device"),
        "config_sha256": file_hash(folder / "config.yaml"),
        "starts_from": {part: _identity(manifest[part]) for part in ("model", "data")},
        "seconds_per_step": median(line["seconds"] for line in timed),
        "rollout_seconds_per_step": median(line["rollout_seconds"] for line in timed),
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in lines),
        "curves": {name: [_rounded(line.get(name)) for line in lines] for name in lines[-1] if name not in _COSTS},
        "energy": _energy(folder, lines[-1]["step"]),
    }


def _identity(part: Mapping[str, Any]) -> str:
    """A hash of local files, or the commit of a hub repository."""
    return str(part.get("sha256") or part.get("revision"))


def _energy(folder: Path, step: int) -> dict[str, Any] | None:
    """The energy of each layer at the end, where the flow was saved."""
    file = folder / "flows" / f"{step_name(step)}.safetensors"
    if not file.is_file():
        return None
    report = diagnose_file(file, "loss")
    layer, share = report.largest
    return {
        "layers": report.layers,
        "share": [round(value, _DIGITS) for value in report.share],
        "entropy": report.entropy,
        "max_entropy": report.max_entropy,
        "largest": {"layer": layer, "share": share},
        "position_map": [[None if v is None else float(f"{v:.4g}") for v in row] for row in report.position_map],
    }


def _rounded(value: Any) -> float | None:
    return round(value, _DIGITS) if isinstance(value, int | float) else None
