"""The record of a finished run: the file from which the page is made, small enough to be committed with the code.

It holds the settings from the study, the scores of each evaluation, the cost of the steps and, if flows were saved, the
energy of each layer. A run is finished if its record exists and has the settings of the study.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, PositiveInt, StrictStr

from phfcli.core.analysis.diagnose import diagnose_file
from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import SUITES, load_benchmarks
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, load_evaluations
from phfcli.core.retired import without_retired
from phfcli.core.runs.folder import evaluation_folder, model_identity, own_code, saved_config, step_name
from phfcli.core.runs.problems import load_problems
from phfcli.core.settings import Source, resolve, resolve_train
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
    "bench_sha256",
)
_TRAINED = ("seconds_per_step", "rollout_seconds_per_step", "peak_memory_bytes", "rate")  # what a training leaves
_ROUNDING = 1e-6
_COSTS = ("step", *MACHINE_METRICS)  # not among the curves of a record
_DIGITS = 6  # decimals of the values that are drawn


class EvaluationRecord(Form):
    """an evaluation in a record"""

    average: Share
    stderr: Annotated[FiniteFloat, Field(ge=0)] | None
    n: PositiveInt
    scores: Annotated[dict[str, Share], Field(min_length=1)]  # problem -> share of its samples that are right
    pass_at_k: dict[Annotated[str, Field(pattern=r"^[1-9]\d*$")], Share] | None = None
    majority: FiniteFloat | None = None
    truncated_share: FiniteFloat | None = None
    mean_tokens: FiniteFloat | None = None
    distinct_answers: FiniteFloat | None = None
    seconds: FiniteFloat | None = None
    bench_sha256: StrictStr | None = None


class LargestForm(Form):
    layer: PositiveInt
    share: FiniteFloat


class EnergyForm(Form):
    layers: Annotated[list[PositiveInt], Field(min_length=1)]
    share: list[FiniteFloat]
    entropy: FiniteFloat
    max_entropy: FiniteFloat
    largest: LargestForm


class RecordForm(Form):
    """a record of a study"""

    model: StrictStr
    system: StrictStr
    seed: int
    settings: dict[str, Any]
    evaluation_settings: dict[str, Any]
    evaluations: dict[str, Annotated[dict[str, EvaluationRecord], Field(min_length=1)]]  # by step, then by benchmark
    seconds_per_step: FiniteFloat | None = None
    rollout_seconds_per_step: FiniteFloat | None = None
    peak_memory_bytes: FiniteFloat | None = None
    rate: FiniteFloat | None = None
    energy: EnergyForm | None = None
    planned: Annotated[list[StrictStr], Field(default=[])]  # what the study's file asked when the run was made
    starts_from: dict[str, StrictStr] | None = None  # hashes or commits of what it reads: model, data, own code


def finished(run: StudyRun) -> bool:
    """Whether the run has a record. Raises UserError as `read_record` does."""
    return read_record(run) is not None


def read_record(run: StudyRun) -> dict[str, Any] | None:
    """The record of a run; None for a run that is not finished.

    Raises:
        UserError: a record of another form, of other settings than the study's file has now, or one that says of
            itself what it does not hold.
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
    if contradiction := next(_contradictions(run, record), None):
        raise UserError(f"{run.record}: {contradiction}; remove the record, and the study makes it anew")
    return record


def _contradictions(run: StudyRun, record: Mapping[str, Any]) -> Iterator[str]:
    """What a record says of itself and does not hold, a sentence each."""
    for key, own in (("model", run.model), ("system", run.system), ("seed", run.seed)):
        if record[key] != own:
            yield f"{key} is {record[key]!r}, and it lies where the record of {own!r} belongs"
    steps, found = list(map(str, run.evaluated)), record["evaluations"]
    if list(found) != steps:
        yield f"evaluations: it has those of the steps {', '.join(found)}, and the study evaluates {', '.join(steps)}"
    benches, n = {tuple(step) for step in found.values()}, run.evaluation().get("n", EvalConfig().n)
    if len(benches) > 1:
        yield "evaluations: its steps have other benchmarks"
    for step, evaluations in found.items():
        for bench, evaluation in evaluations.items():
            where, mean = f"evaluations.{step}.{bench}", fmean(evaluation["scores"].values())
            if evaluation["n"] != n:
                yield f"{where}: n is {evaluation['n']}, and the study draws {n}"
            if abs(mean - evaluation["average"]) > _ROUNDING:
                yield f"{where}: average is {evaluation['average']}, and its scores give {mean:.6g}"
    for key in _TRAINED if run.trains else ():
        if record.get(key) is None:
            yield f"{key} is missing"
    if (energy := record.get("energy")) and len(energy["share"]) != len(energy["layers"]):
        yield "energy: it has other layers than shares"


def changed_inputs(runs: Iterable[StudyRun]) -> list[str]:
    """Sentences on what records were made from, and what has other contents now; what cannot be read is left out."""
    known: dict[str, dict[str, str]] = {}
    changed = []
    for run in runs:
        if (record := read_record(run)) is None:
            continue
        before = dict(record.get("starts_from") or {})
        for bench, evaluation in next(iter(record["evaluations"].values())).items():
            before[f"bench {bench}"] = evaluation.get("bench_sha256")
        now: dict[str, str] = {}
        training = [(run.training(), _inputs_of_training)] if run.trains else []
        for tree, read in (*training, (run.evaluation(), _inputs_of_evaluation)):
            key = json.dumps([read.__name__, as_json(tree | {"seed": 0})], sort_keys=True)
            if key not in known:
                known[key] = read(run)
            now |= known[key]
        for part, own in before.items():
            if own is not None and now.get(part, own) != own:
                changed.append(f"{run.record}: {part}: it was made with other contents than are there now")
    return changed


def _inputs_of_training(run: StudyRun) -> dict[str, str]:
    """The identity of what a training reads, as `starts_from` has it."""
    config = resolve_train([Source("study", run.training())])
    manifest, inputs = run.folder / "manifest.json", own_code(config)
    with suppress(UserError):
        recorded = read_form(manifest, ManifestForm)["model"] if manifest.is_file() else None
        inputs["model"] = _identity(model_identity(config.model, recorded))
    if config.overlong == "error":  # else the hash is of the problems that fit
        with suppress(UserError):
            inputs["data"] = load_problems(config).sha256
    return {part: own for part, own in inputs.items() if own != "None"}  # a commit is not known before a model is read


def _inputs_of_evaluation(run: StudyRun) -> dict[str, str]:
    """The hash of each benchmark."""
    config = resolve(EvalConfig, [Source("study", run.evaluation())])
    with suppress(UserError):
        return {f"bench {bench.name}": bench.sha256 for bench in load_benchmarks(config.bench, config)}
    return {}


def settings_of(run: StudyRun) -> dict[str, Any]:
    """The settings that the study gives a run, in the form of JSON."""
    training = run.training() if run.trains else {}
    return {"settings": as_json(training), "evaluation_settings": as_json(run.evaluation())}


def write_record(run: StudyRun) -> None:
    """Writes the record from the files of the run. Raises UserError if an evaluation is missing."""
    record: dict[str, Any] = {"model": run.model, "system": run.system, "seed": run.seed, **settings_of(run)}
    record["evaluations"] = {str(step): _evaluations(run, step) for step in run.evaluated}
    if run.study.planned:
        record["planned"] = run.study.plan
    if run.trains:
        record |= _training(run.folder)
    write_sealed(run.record, record)


def _evaluations(run: StudyRun, step: int) -> dict[str, Any]:
    """Benchmark -> scores of the evaluation of a step."""
    files = evaluation_folder(run.folder, step or None, "*").parent.glob("*/summary.json")
    evaluations: dict[str, Any] = {}
    config = resolve(EvalConfig, [Source("eval", run.evaluation())])
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):  # `phf eval` writes a summary anew each time
        (saved,) = load_evaluations([str(file)], [])
        if not _made_by(saved, config):
            continue
        scores = {key: saved.summary[key] for key in _EVALUATION if key in saved.summary}
        evaluations[saved.bench] = scores | {
            "distinct_answers": fmean(len({sample.answer for sample in samples}) for samples in saved.samples.values()),
            "scores": {problem: fmean(values) for problem, values in saved.scores.items()},
            "file": str((saved.folder / "summary.json").relative_to(run.folder)),
        }
    wanted = {member for name in config.bench for member in SUITES.get(name, (name,))}
    for name in sorted(wanted):
        if not {name, Path(name).stem} & set(evaluations):
            raise UserError(f"{run.folder}: no evaluation of step {step} on {name} was found; give the study again")
    return {bench: evaluations[bench] for bench in sorted(evaluations)}


def _made_by(saved: SavedEvaluation, config: EvalConfig) -> bool:
    """Whether an evaluation was made with these settings, as far as it says: of its sampling and its grading."""
    about = {**saved.settings, **saved.settings.get("sampling", {}), "n": saved.summary.get("n")}
    wanted = {name: getattr(config, name) for name in ("n", "seed", "temperature", "top_p", "top_k", "grading")}
    if config.max_new_tokens is not None:
        wanted["max_new_tokens"] = config.max_new_tokens
    return all(about.get(name, value) == value for name, value in wanted.items())


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
        "starts_from": {part: _identity(manifest[part]) for part in ("model", "data")} | manifest.get("code", {}),
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
