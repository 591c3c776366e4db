"""The record of a finished run: the file from which the page is made, small enough to be committed with the code.

It holds the settings from the study, the scores of each evaluation, the cost of the steps and, if flows were saved, the
energy of each layer. A run is finished if its record exists and has the settings of the study.
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
from phfcli.core.runs.folder import evaluation_folder, saved_config, step_name
from phfcli.core.step_metrics import MACHINE_METRICS
from phfcli.core.storage.files import as_json, file_hash
from phfcli.core.storage.schemas import Form, ManifestForm, Share, StepForm, read_form, read_forms
from phfcli.core.storage.seals import write_sealed
from phfcli.core.studies.study_file import StudyRun

_EVALUATION = (
    "n",
    "problems",
    "average",
    "stderr",
    "greedy",
    "pass_at_k",
    "majority",
    "truncated_share",
    "mean_tokens",
    "seconds",
)
_COSTS = ("step", *MACHINE_METRICS)  # not among the curves of a record
_DIGITS = 6  # decimals of the values that are drawn


class EvaluationRecord(Form):
    """an evaluation in a record"""

    average: Share
    stderr: Annotated[FiniteFloat, Field(ge=0)] | None
    n: NonNegativeInt
    scores: dict[str, Share]  # problem -> share of its samples that are right


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
    starts_from: dict[str, StrictStr] | None = None  # hashes or commits of the model and the data


def finished(run: StudyRun) -> bool:
    """Whether the run has a record. Raises UserError as `read_record` does."""
    return read_record(run) is not None


def read_record(run: StudyRun) -> dict[str, Any] | None:
    """The record of a run; None for a run that is not finished.

    Raises:
        UserError: a record of another form, or of other settings than the study's file has now.
    """
    if not run.record.is_file():
        return None
    record = read_form(run.record, RecordForm)
    given = settings_of(run)
    if {key: without_retired(record[key], str(run.record)) for key in given} != given:
        raise UserError(
            f"{run.record}: its run has other settings than the study's file has now; "
            "move the record and the run's folder, or set other folders in the study's file"
        )
    return record


def settings_of(run: StudyRun) -> dict[str, Any]:
    """The settings that the study gives a run, in the form of JSON."""
    training = run.training() if run.trains else {}
    return {"settings": as_json(training), "evaluation_settings": as_json(run.evaluation())}


def write_record(run: StudyRun) -> None:
    """Writes the record from the files of the run. Raises UserError if an evaluation is missing."""
    record: dict[str, Any] = {"model": run.model, "system": run.system, "seed": run.seed, **settings_of(run)}
    record["evaluations"] = {str(step): _evaluations(run, step) for step in run.evaluated}
    if run.trains:
        record |= _training(run.folder)
    write_sealed(run.record, record)


def _evaluations(run: StudyRun, step: int) -> dict[str, Any]:
    """Benchmark -> scores of the evaluation of a step."""
    files = sorted(evaluation_folder(run.folder, step or None, "*").parent.glob("*/summary.json"))
    if not files:
        raise UserError(f"{run.folder}: no evaluation of step {step} was found; give the study again")
    evaluations = {}
    for saved in load_evaluations([str(file) for file in files], []):
        scores = {key: saved.summary[key] for key in _EVALUATION if key in saved.summary}
        evaluations[saved.bench] = scores | {
            "distinct_answers": fmean(len({sample.answer for sample in samples}) for samples in saved.samples.values()),
            "scores": {problem: fmean(values) for problem, values in saved.scores.items()},
            "file": str((saved.folder / "summary.json").relative_to(run.folder)),
        }
    return evaluations


def _training(folder: Path) -> dict[str, Any]:
    """The provenance of a training run, the cost of its steps, and its metrics by step."""
    lines = read_forms(folder / "metrics.jsonl", StepForm)
    manifest = read_form(folder / "manifest.json", ManifestForm)
    config = saved_config(folder).tree
    timed = lines[1:] or lines  # the first step is slower, because libraries load parts of themselves in it
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
    """The hash of local files, or the commit of a hub repository."""
    return str(part.get("sha256") or part.get("revision"))


def _energy(folder: Path, step: int) -> dict[str, Any] | None:
    """The energy of each layer at the last step; None if no flow was saved then."""
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
