"""Verifies a run folder: each part must have the right form and the content that was written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from phfcli.core.config import TrainConfig
from phfcli.core.errors import MissingFileError, UserError
from phfcli.core.evaluation.samples import SampleFile
from phfcli.core.models.adapters import check_adapter
from phfcli.core.models.description import ModelDescription, load_description
from phfcli.core.models.loading import load_model
from phfcli.core.runs.flows import open_flow
from phfcli.core.runs.folder import VALIDATIONS, check_sums, checkpoints_of, evaluation_files, is_run, recorded_config
from phfcli.core.runs.readings import read_reading, reading_files
from phfcli.core.runs.summaries import GREEDY, SAMPLES, check_covered, read_summary
from phfcli.core.runs.targets import in_use
from phfcli.core.storage.schemas import (
    AlarmForm,
    EvaluationSettingsForm,
    ManifestForm,
    SampleForm,
    StepForm,
    ValidationForm,
    check_forms,
    read_form,
    read_forms,
)
from phfcli.core.training.alarms import FILE as ALARMS

State = Literal["ok", "damaged", "missing", "in use"]


@dataclass(frozen=True)
class PartCheck:
    """The check of one part of a run: its state, what is wrong, and what to do about it."""

    part: str
    state: State
    reason: str = ""
    advice: str = ""


def verify_run(folder: Path, full: bool = False) -> list[PartCheck]:
    """Checks every part of a run; with `full` it also loads the base model with the newest adapter.

    Raises:
        UserError: the folder is no run.
    """
    if not is_run(folder):
        raise UserError(f"{folder}: no run: it holds no config.yaml")
    return list(_checks(folder, full))


def _checks(folder: Path, full: bool) -> Iterator[PartCheck]:
    configs: list[TrainConfig] = []  # empty if config.yaml is damaged
    advice = "bring back the file as it was; without it the checkpoints of the run are still adapters"
    yield _try("config.yaml", lambda: configs.append(recorded_config(folder)), advice)
    yield _lock(folder)
    yield _try(
        "manifest.json",
        lambda: read_form(folder / "manifest.json", ManifestForm),
        "resume the run, which writes a new manifest; the versions and hashes of the damaged one are lost",
    )
    yield _try(
        "metrics.jsonl",
        lambda: _check_metrics(folder),
        "remove that line; the weights do not depend on it",
    )
    for name, form, advice in (
        (ALARMS, AlarmForm, "remove that line; an alarm that it recorded may be raised again"),
        (VALIDATIONS, ValidationForm, "remove that line; the best checkpoint is then chosen among the others"),
    ):
        if (folder / name).is_file():
            yield _try(name, partial(read_forms, folder / name, form), advice)
    yield from _checkpoints(folder, configs[0] if configs else None, full)
    for path in sorted((folder / "flows").glob("*.safetensors")):
        advice = "remove it; phf collect makes another"
        yield _try(f"flows/{path.name}", partial(open_flow, path), advice)
    for path in reading_files(folder):
        advice = "remove it; without its first file a run reads the rollouts of its next checkpoint"
        yield _try(f"{path.parent.name}/{path.name}", partial(read_reading, path), advice)
    for path in sorted((folder / "faults").glob("*.json")):
        yield _try(f"faults/{path.name}", partial(read_form, path, StepForm), "remove it; nothing is made from it")
    evaluated = [path.parent for name in ("summary.json", "settings.json") for path in evaluation_files(folder, name)]
    for evaluation in dict.fromkeys(evaluated):
        yield from _evaluation(folder, evaluation)


def _check_metrics(folder: Path) -> None:
    """Checks each line, and that none is missing up to the newest checkpoint."""
    path, saved = folder / "metrics.jsonl", checkpoints_of(folder)
    steps = [line["step"] for line in read_forms(path, StepForm)]
    if steps != list(range(1, len(steps) + 1)) or (saved and saved[-1][0] > len(steps)):
        raise UserError(f"{path}: damaged: it does not have every step up to that of the newest checkpoint")


def _evaluation(folder: Path, evaluation: Path) -> Iterator[PartCheck]:
    """Checks an evaluation by its summary, and what else was made from its samples only if these are sound."""
    name = str(evaluation.relative_to(folder))
    check = _try(name, partial(_check_evaluation, evaluation), "remove its folder and run phf eval again")
    yield check
    file = SampleFile(evaluation)
    for path in (file.table, file.page):
        if check.state == "ok" and path.is_file() and (evaluation / "summary.json").is_file():
            look = partial(check_covered, evaluation, [path])
            yield _try(f"{name}/{path.name}", look, "remove it; phf eval writes it again")


def _check_evaluation(evaluation: Path) -> None:
    """Checks samples, settings and summary; an evaluation without a summary has been stopped."""
    summary, settings = evaluation / "summary.json", evaluation / "settings.json"
    for name in (SAMPLES, GREEDY):
        check_forms(evaluation / name, SampleForm)
    if settings.is_file():
        read_form(settings, EvaluationSettingsForm)
    if summary.is_file():
        read_summary(summary)
        check_covered(evaluation, [evaluation / SAMPLES, evaluation / GREEDY, settings])


def _lock(folder: Path) -> PartCheck:
    return (
        PartCheck("lock", "in use", "a phf train is at work in this run") if in_use(folder) else PartCheck("lock", "ok")
    )


def _checkpoints(folder: Path, config: TrainConfig | None, full: bool) -> Iterator[PartCheck]:
    checkpoints = checkpoints_of(folder)
    if not checkpoints:
        yield PartCheck(
            "checkpoints", "missing", "there is no complete checkpoint", "resume the run, which starts from step 1"
        )
        return
    base: list[ModelDescription] = []  # empty if the base model cannot be reached
    advice = "make the base model reachable again"
    if config is not None:
        yield _try(f"base {config.model}", lambda: base.append(load_description(config.model)), advice)
    description = base[0] if base else None
    for _, path in checkpoints:
        advice = "resume the run, which sets it aside and continues from the checkpoint before it"
        yield _try(f"checkpoints/{path.name}", partial(_check, path, description), advice)
    if full and config is not None and description is not None and config.tuning == "lora":
        newest = checkpoints[-1][1]
        yield _try("base and newest adapter", lambda: load_model(config, newest), "see the checkpoints above")


def _check(path: Path, description: ModelDescription | None) -> None:
    check_sums(path)
    if description is not None and (path / "adapter_model.safetensors").is_file():
        check_adapter(path, description)


def _try(part: str, look: Callable[[], object], advice: str) -> PartCheck:
    try:
        look()
    except UserError as error:
        return PartCheck(part, "missing" if isinstance(error, MissingFileError) else "damaged", str(error), advice)
    return PartCheck(part, "ok")
