"""How long a study still takes, from what its finished and its begun runs have cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from phfcli.core.storage.schemas import StepForm, read_forms
from phfcli.core.studies.plan import WHOLE, Part, Study, StudyRun, runs_of, search_runs
from phfcli.core.studies.rates import known_runs
from phfcli.core.studies.record import read_record


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        runs, steps, samplings: training runs and models that are left, their steps, the checkpoints to evaluate.
        hours: of one job; None before any step was measured.
    """

    runs: int
    steps: int
    samplings: int
    hours: float | None


def estimate(study: Study, part: Part = WHOLE) -> Estimate:
    """Counts what is left of a part of a study.

    A system that was not measured is taken to cost what the measured ones of the whole study do, at the median.
    """
    known = [*search_runs(study), *known_runs(study)]
    recorded = {run.name: record for run in known if (record := read_record(run)) is not None}
    wanted = [*part.searches(study), *filter(part.has, runs_of(study))]
    done, left = list(recorded.values()), [run for run in wanted if run.name not in recorded]
    costs = _seconds_per_step([*search_runs(study), *runs_of(study)], done)
    measured = [seconds for own in costs.values() for seconds in own]
    per_sampling = [_sampling_seconds(record) for record in done]
    hours = None
    if measured:
        training = sum(_steps_left(run) * median(costs.get((run.model, run.system)) or measured) for run in left)
        sampling = sum(len(run.evaluated) for run in left) * (fmean(per_sampling) if per_sampling else 0.0)
        hours = (training + sampling) / 3600
    return Estimate(len(left), sum(map(_steps_left, left)), sum(len(run.evaluated) for run in left), hours)


def steps_done(run: StudyRun) -> int:
    """The steps that a run has behind it."""
    lines = read_forms(run.folder / "metrics.jsonl", StepForm) if run.trains else []
    return int(lines[-1]["step"]) if lines else 0


def _steps_left(run: StudyRun) -> int:
    return max(0, run.evaluated[-1] - steps_done(run)) if run.trains else 0


def _seconds_per_step(
    runs: Sequence[StudyRun], records: Sequence[dict[str, Any]]
) -> dict[tuple[str, str], list[float]]:
    """By model and system the seconds of a step, of finished runs and of those that have begun."""
    costs: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record.get("seconds_per_step"):
            costs.setdefault((record["model"], record["system"]), []).append(record["seconds_per_step"])
    for run in runs:
        lines = read_forms(run.folder / "metrics.jsonl", StepForm) if run.trains and not run.record.is_file() else []
        if len(lines) > 1:
            costs.setdefault((run.model, run.system), []).append(median(line["seconds"] for line in lines[1:]))
    return costs


def _sampling_seconds(record: dict[str, Any]) -> float:
    """The mean over its evaluated checkpoints of the seconds that their benchmarks took."""
    totals = [sum(own.get("seconds") or 0.0 for own in benches.values()) for benches in record["evaluations"].values()]
    return fmean(totals)
