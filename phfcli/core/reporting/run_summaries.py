"""The runs of a report: their settings, provenance, metrics, flows, alarms, and rollouts read at checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phfcli.core.analysis.diagnose import LayerReport, diagnose_file, flow_files, in_order
from phfcli.core.errors import UserError, printable
from phfcli.core.evaluation.saved_evaluations import distinct_names, name_of, summaries_of
from phfcli.core.reporting.tables import ResultTable
from phfcli.core.runs.folder import evaluation_files, is_run, saved_config
from phfcli.core.runs.readings import load_readings
from phfcli.core.settings import leaves
from phfcli.core.storage.schemas import AlarmForm, Form, StepForm, read_form, read_forms
from phfcli.core.training.alarms import FILE as ALARMS


@dataclass(frozen=True)
class RunSummary:
    """A run or an evaluated model, with the content of its files."""

    name: str
    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]  # of the training, or else of an evaluation
    metrics: list[dict[str, Any]]
    flows: list[LayerReport]
    alarms: list[dict[str, Any]] = field(default_factory=list)


def load_run_summary(name: str | None, folder: Path) -> RunSummary:
    """Reads a run's folder. Raises UserError for a folder that is neither a run nor holds an evaluation."""
    if not folder.exists():
        raise UserError(f"{folder}: no such run")
    evaluated = [] if is_run(folder) else summaries_of(folder, all_steps=True)
    if not is_run(folder) and not evaluated:
        raise UserError(f"{folder}: neither a run nor evaluated; run `phf eval` first")
    manifests = [*folder.glob("manifest.json"), *evaluation_files(folder, "settings.json")]
    saved = flow_files(folder) if is_run(folder) and any((folder / "flows").glob("*.safetensors")) else []
    return RunSummary(
        name or (name_of(evaluated[0]) if evaluated else printable(folder.resolve().name)),
        folder,
        saved_config(folder).tree if is_run(folder) else {},
        read_form(manifests[0], Form) if manifests else {},
        read_forms(folder / "metrics.jsonl", StepForm),
        in_order([diagnose_file(file, "loss") for file in saved]),
        read_forms(folder / ALARMS, AlarmForm),
    )


def with_distinct_names(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs, renamed so that no two have the same name."""
    names = distinct_names([(run.name, run.folder, None) for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def settings_tables(runs: Sequence[RunSummary]) -> tuple[ResultTable, ResultTable]:
    """Two tables: the settings that differ between the runs, side by side, and the settings that all runs share."""
    trained = [run for run in runs if run.config]
    flat = [leaves(run.config) for run in trained]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differing, same = [], []
    for key in keys:
        values = [str(settings.get(key, "-")) for settings in flat]
        if len(set(values)) > 1:
            differing.append([key, *values])
        else:
            same.append([key, values[0]])
    heads, shared = ["setting", *(run.name for run in trained)], ["setting", "value"]
    return (
        ResultTable("Settings that differ between the runs", heads, differing, text=heads),
        ResultTable("Settings of all runs", shared, same, text=shared),
    )


def provenance_table(runs: Sequence[RunSummary]) -> ResultTable:
    """The table of versions, revisions and hashes of each run."""
    rows = []
    for run in runs:
        manifest = run.manifest
        model, data = manifest.get("model", {}), manifest.get("data", {})
        versions = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
        rows.append(
            [
                run.name,
                str(run.folder),
                str(manifest.get("created", "-")),
                str(manifest.get("git", "-")),
                versions or "-",
            ]
            + [
                f"{part.get('name', '-')} {str(part.get('sha256') or part.get('revision') or '')[:12]}"
                for part in (model, data)
            ]
            + [str(manifest.get("device", "-"))]
        )
    columns = ["run", "folder", "created", "git", "versions", "model", "data", "device"]
    return ResultTable("Where the runs come from", columns, rows, text=columns)


ROLLOUTS, STEPS, TOKENS = 3, 5, 400  # of each run on the page, at most
FULL = 0.5  # nats: from this divergence on a token has the darkest shade

_SHADES = 10


def rollout_views(runs: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """The rollouts that each run read again at its checkpoints, with the readings of each step."""
    views = []
    for run in runs:
        readings = _spread(load_readings(run.folder))
        if readings:
            indices = _most_divergent(readings)
            views.append({"name": run.name, "rollouts": [_rollout(readings, index) for index in indices]})
    return views


def _spread(readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most STEPS of the readings, evenly spaced, with the first and the last."""
    if len(readings) <= STEPS:
        return list(readings)
    return [readings[round(index * (len(readings) - 1) / (STEPS - 1))] for index in range(STEPS)]


def _most_divergent(readings: Sequence[dict[str, Any]]) -> list[int]:
    """The indices of the rollouts with the largest divergence of student and teacher at the first step."""
    count = min(len(reading["rollouts"]) for reading in readings)
    first = readings[0]["rollouts"]
    return sorted(range(count), key=lambda index: -sum(first[index]["divergence"]))[:ROLLOUTS]


def _rollout(readings: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    first = readings[0]["rollouts"][index]
    steps = [(reading["step"], _tokens(reading["rollouts"][index])) for reading in readings]
    cut = max(0, len(first["tokens"]) - TOKENS)
    return {"problem": first["problem"], "context": first["context"], "steps": steps, "cut": cut}


def _tokens(rollout: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = [rollout[name][:TOKENS] for name in ("tokens", "student", "teacher", "divergence", "clip_took")]
    return [
        {
            "text": text.replace("\n", "⏎"),
            "shade": min(_SHADES, round(_SHADES * max(divergence, 0) / FULL)),
            "told": _tooltip(student, teacher, divergence, taken, rollout["flow"].get(str(position))),
        }
        for position, (text, student, teacher, divergence, taken) in enumerate(zip(*columns, strict=True))
    ]


def _tooltip(student: float, teacher: float, divergence: float, taken: float, flow: float | None) -> str:
    text = f"student {student:.1%}, teacher {teacher:.1%}, {divergence:.3f} nats, the clip removes {taken:.3f}"
    return text if flow is None else f"{text}, flow {flow:.3f}"
