"""What trackers show of a run at a checkpoint: its rollouts, its curves, the energy over depth, and a verdict."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError
from phfcli.core.models.passes import Sample
from phfcli.core.runs.layout import step_name
from phfcli.core.storage.schemas import AlarmForm, StepForm, ValidationForm, read_forms
from phfcli.core.training.health.alarms import FILE as ALARMS
from phfcli.core.training.parts import TrainingParts
from phfcli.core.training.tracker_pages import Cell, Findings, Pixels, TrackedTable
from phfcli.core.training.validation import FILE as EVALUATIONS

_ROLLOUTS = 4
_LONGEST_TEXT = 4_000  # characters of a prompt or a rollout


def training_findings(run: TrainingParts) -> Findings:
    """What there is to see of a run after its last completed step, which has a checkpoint."""
    from phfcli.core.reporting.verdict import alarm_sentence, evaluation_sentence  # not when a training starts

    metrics = read_forms(run.folder / "metrics.jsonl", StepForm)
    alarms = read_forms(run.folder / ALARMS, AlarmForm)
    evaluations = read_forms(run.folder / EVALUATIONS, ValidationForm)
    tables = {} if run.objective.needs.offline else {"rollouts": _rollouts(run)}
    if evaluations:
        tables["evaluations"] = _evaluations(evaluations)
    sentences = evaluation_sentence(evaluations), alarm_sentence({run.folder.name: alarms})
    return Findings(tables, _pictures(run, metrics), [sentence for sentence in sentences if sentence])


def _rollouts(run: TrainingParts) -> TrackedTable:
    """A few rollouts of the step, with their reward where there is one."""
    columns, rewarded = ["prompt", "rollout", "tokens"], run.objective.needs.reward
    rows = [_row(run, sample) + ([sample.reward] if rewarded else []) for sample in run.samples[:_ROLLOUTS]]
    return TrackedTable([*columns, *(["reward"] if rewarded else [])], rows)


def _row(run: TrainingParts, sample: Sample) -> list[Cell]:
    prompt, text = (run.model.description.text(ids) for ids in (sample.student_prompt, sample.completion))
    return [_cut(prompt), _cut(text), len(sample.completion)]


def _cut(text: str) -> str:
    more = len(text) - _LONGEST_TEXT
    return text if more <= 0 else f"{text[:_LONGEST_TEXT]} … {more} more characters"


def _evaluations(evaluations: Sequence[dict[str, Any]]) -> TrackedTable:
    columns = ["step", "bench", "average, %", "stderr, %", "problems", "n"]
    rows = [
        [line["step"], line["bench"], *map(_percent, (line["average"], line["stderr"])), line["problems"], line["n"]]
        for line in evaluations
    ]
    return TrackedTable(columns, rows)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _pictures(run: TrainingParts, metrics: Sequence[dict[str, Any]]) -> dict[str, Pixels]:
    """The curves of training, and the panels of the step's hidden flow if it was saved."""
    from phfcli.core.analysis.diagnose import diagnose_file
    from phfcli.core.reporting.figures import figure_of, layers_figure, pixels_of  # loads matplotlib
    from phfcli.core.reporting.training_curves import CURVES, own_metrics, training_panels

    panels = training_panels({run.folder.name: metrics}, [*CURVES, *own_metrics([metrics])])
    pictures = {"training curves": pixels_of(figure_of(list(panels.values())))}
    flow: Path = run.folder / "flows" / f"{step_name(run.step)}.safetensors"
    if flow.is_file():
        with suppress(UserError):  # rollouts without a transition have no flow to show
            pictures["hidden flow"] = pixels_of(layers_figure([diagnose_file(flow, "loss")]))
    return pictures
