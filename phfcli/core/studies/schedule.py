"""Runs a study: a `phf` process for each group of cores or devices. Finished runs are skipped; the search is first."""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError, reached
from phfcli.core.settings import Source, Tree, dump_yaml, resolve, resolve_train
from phfcli.core.storage.child_processes import phf_command
from phfcli.core.storage.files import appending, as_json, check_file, check_folder, write_data
from phfcli.core.storage.schemas import StepForm, read_forms
from phfcli.core.studies.record import changed_inputs, finished, read_record, write_record
from phfcli.core.studies.study_file import WHOLE, Part, Study, StudyRun, runs_of, search_runs

Rates = dict[tuple[str, str], float]  # (model, family) -> learning rate


def known_runs(study: Study) -> list[StudyRun]:
    """The runs of the tables with their learning rates, without those whose rate is still searched."""
    rates = chosen_rates(study)
    runs = [(run, study.systems[run.system].family if run.trains else None) for run in runs_of(study)]
    return [
        run if family is None else replace(run, rate=rates[run.model, family])
        for run, family in runs
        if family is None or (run.model, family) in rates
    ]


def chosen_rates(study: Study) -> Rates:
    """The best learning rate of each model and family whose search is finished; of equal scores the smaller rate."""
    families = study.search.rates if study.search else {}
    rates = {
        (model, family): tried[0] for model in study.models for family, tried in families.items() if len(tried) == 1
    }
    searches: dict[tuple[str, str], list[tuple[StudyRun, float | None]]] = {}
    for run, score in searched(study):
        searches.setdefault((run.model, study.systems[run.system].family or ""), []).append((run, score))
    for key, scored in searches.items():
        known = [(score, -(run.rate or 0)) for run, score in scored if score is not None]
        if len(known) == len(scored):
            rates[key] = -max(known)[1]
    return rates


def searched(study: Study) -> Sequence[tuple[StudyRun, float | None]]:
    """The runs of the search with their scores; None for a run that is not finished."""
    return [(run, _score(read_record(run))) for run in search_runs(study)]


def _score(record: dict[str, Any] | None) -> float | None:
    if record is None:
        return None
    (evaluations,) = record["evaluations"].values()
    (evaluation,) = evaluations.values()
    return float(evaluation["average"])


@dataclass(frozen=True)
class Estimate:
    """The remaining work of a study.

    Attributes:
        runs: the number of runs that are not finished.
        steps: their remaining training steps.
        samplings: the number of checkpoints and models that they evaluate.
        hours: of a single job; None before any step was measured.
    """

    runs: int
    steps: int
    samplings: int
    hours: float | None


def estimate(study: Study, part: Part = WHOLE) -> Estimate:
    """Estimates the remaining work of a part of a study.

    A system without measured steps counts with the median step time of all measured systems of the study.
    """
    known = [*search_runs(study), *known_runs(study)]
    recorded = {run.name: record for run in known if (record := read_record(run)) is not None}
    wanted = [*part.searches(study), *filter(part.has, runs_of(study))]
    done, left = list(recorded.values()), [run for run in wanted if run.name not in recorded]
    costs = _seconds_per_step([*search_runs(study), *runs_of(study)], done)
    measured = [seconds for step_times in costs.values() for seconds in step_times]
    per_sampling = [_sampling_seconds(record) for record in done]
    hours = None
    if measured:
        training = sum(_steps_left(run) * median(costs.get((run.model, run.system)) or measured) for run in left)
        sampling = sum(len(run.evaluated) for run in left) * (fmean(per_sampling) if per_sampling else 0.0)
        hours = (training + sampling) / 3600
    return Estimate(len(left), sum(map(_steps_left, left)), sum(len(run.evaluated) for run in left), hours)


def examine(study: Study, path: Path, part: Part = WHOLE) -> list[str]:
    """Makes the checks of the start of every run that is left, as a night would: models, data, benchmarks, the page.

    Returns:
        What could not be looked at because the hub does not answer.

    Raises:
        UserError: for what a run, its evaluations or the page would be refused for.
    """
    from phfcli.core.evaluation.benchmarks import load_benchmarks
    from phfcli.core.models.description import load_description
    from phfcli.core.models.device import pick_device
    from phfcli.core.rollouts.vllm import vllm_gap
    from phfcli.core.training.plan import plan_run

    for label in ("folder", "records"):
        check_folder(f"{path}: {label}", Path(getattr(study, label)))
    for ending in (".md", ".json"):
        check_file(f"{path}: page", Path(study.page).with_suffix(ending))
    check_folder(f"{path}: page", Path(study.page).with_suffix(""))
    gaps: list[str] = []
    planned = set[tuple[str, str]]()
    for run in [*(run for run in runs_of(study) if run.seed == 0 and part.has(run)), *part.searches(study)]:
        if finished(run):
            continue
        try:
            if run.trains and (run.model, run.system) not in planned:
                planned.add((run.model, run.system))
                config = resolve_train([Source(f"systems.{run.system}", run.training())])
                gaps += plan_run(config, study.processes, None).gaps
            evaluation = resolve(EvalConfig, [Source("eval", run.evaluation())])
            device = pick_device(evaluation.device)
            if evaluation.engine == "vllm" and (gap := vllm_gap(device)):
                raise UserError(f"eval.engine: vllm: {gap}")
            reached(lambda: load_benchmarks(evaluation.bench, evaluation), gaps)  # noqa: B023 - called here
            if not run.trains:
                reached(lambda: load_description(run.target(0)), gaps)  # noqa: B023
        except UserError as error:
            raise UserError(f"{path}: {run.model}, {run.system}: {error}") from None
    return list(dict.fromkeys(gaps))


def steps_done(run: StudyRun) -> int:
    """The number of training steps that a run has made."""
    lines = read_forms(run.folder / "metrics.jsonl", StepForm) if run.trains else []
    return int(lines[-1]["step"]) if lines else 0


def _steps_left(run: StudyRun) -> int:
    return max(0, run.evaluated[-1] - steps_done(run)) if run.trains else 0


def _seconds_per_step(
    runs: Sequence[StudyRun], records: Sequence[dict[str, Any]]
) -> dict[tuple[str, str], list[float]]:
    """(model, system) -> seconds of a step in each finished or started run."""
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
    """The mean seconds to evaluate a checkpoint of a run on all benchmarks."""
    checkpoints = record["evaluations"].values()
    return fmean(sum(bench.get("seconds") or 0.0 for bench in benches.values()) for benches in checkpoints)


Environment = Mapping[str, str]  # environment variables of a process


class Schedule:
    """Executes the runs of a study.

    Attributes:
        at_work: name -> (run, start in monotonic seconds) of the runs that are executed now.
        jobs: the largest number of runs at the same time.
        failed: runs of which a command failed; the run's log holds the error.
        stopped: whether the study is being stopped; a run that ends then has not failed.
    """

    def __init__(
        self,
        study: Study,
        part: Part,
        slots: Sequence[Environment],
        after_run: Callable[[StudyRun], None],
        force: bool = False,
    ) -> None:
        self.study, self.part, self._force = study, part, force
        self.at_work: dict[str, tuple[StudyRun, float]] = {}
        self.failed: list[StudyRun] = []
        self.stopped = False
        self._after_run = after_run
        self._slots: queue.SimpleQueue[Environment] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self.jobs = len(slots)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._run_ended = threading.Lock()  # one run at a time writes its record and calls after_run

    def run(self) -> None:
        """Makes the runs of the search, then the other runs. A failed run does not stop the others.

        Raises:
            UserError: there is something to do, and records were made from inputs that have changed, without `force`.
        """
        made = [*search_runs(self.study), *known_runs(self.study)]
        left = estimate(self.study, self.part).runs
        if left and not self._force and (changed := changed_inputs(made)):
            fix = "move the records and the runs, or set force: the page then tells the starting points apart"
            raise UserError(f"{changed[0]}; {fix}")
        self._execute(self.part.searches(self.study))
        self._execute([run for run in known_runs(self.study) if self.part.has(run)])

    def _execute(self, runs: Sequence[StudyRun]) -> None:
        todo = [run for run in runs if not finished(run)]
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                list(pool.map(self._make, todo))
            except BaseException:
                self.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._processes):
                    process.terminate()  # training saves a checkpoint first
                raise

    def _make(self, run: StudyRun) -> None:
        slot = self._slots.get()
        self.at_work[run.name] = run, time.monotonic()
        try:
            done = all(self._phf(arguments, run, slot) for arguments in commands_of(run))
        finally:
            del self.at_work[run.name]
            self._slots.put(slot)
        with self._run_ended:
            if done:
                write_record(run)
            elif not self.stopped:
                self.failed.append(run)
            self._after_run(run)

    def _phf(self, arguments: Sequence[str], run: StudyRun, slot: Environment) -> bool:
        """Executes a command of `phf`, with its output in the run's log; returns whether it succeeded."""
        if self.stopped:
            return False
        with appending(log_of(run)) as log:
            process = subprocess.Popen(
                phf_command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **slot},
                start_new_session=True,  # Ctrl-C must reach this process only, which then asks the others to stop
            )
            self._processes.add(process)
            try:
                return process.wait() == 0
            finally:
                self._processes.discard(process)


def commands_of(run: StudyRun) -> list[list[str]]:
    """The commands of `phf` that make a run; writes their settings to files beside the run's folder."""
    commands, evaluation = [], _settings_file(run, "eval", run.evaluation())
    if run.trains:
        training = _settings_file(run, "train", run.training())
        arguments = ["train", "--config", training, "--output-dir", str(run.folder), "--resume", "--quiet"]
        processes = ["--processes", str(run.study.processes)] if run.study.processes > 1 else []
        commands.append([*arguments, *processes])
    for step in run.evaluated:
        target = ["eval", run.target(step), "--config", evaluation, "--quiet"]
        commands.append([*target, *([] if run.trains else ["--output-dir", str(run.folder)])])
    return commands


def log_of(run: StudyRun) -> Path:
    """The log of a run's commands, beside the run's folder."""
    return run.folder.parent / f"{run.folder.name}.log"


_MOST_JOBS = 1024


def slots_for(study: Study, jobs: int | None) -> list[Environment]:
    """The environments of the processes that may run at the same time: their cores or devices.

    Args:
        jobs: the number of processes; None is as many as there are groups of cores or devices.

    Raises:
        UserError: more jobs than groups of devices.
    """
    from phfcli.core.models.device import device_count, seeing, visible_devices

    if (jobs or 0) > _MOST_JOBS:
        raise UserError(f"jobs: {jobs:,} is too many for one machine; {_MOST_JOBS} at most")
    devices = device_count()
    cores = len(os.sched_getaffinity(0))
    if not devices:
        jobs = jobs or max(1, cores // study.processes)
        return [{"OMP_NUM_THREADS": str(max(1, cores // jobs // study.processes))}] * jobs
    visible = visible_devices()
    groups = [visible[first : first + study.processes] for first in range(0, devices, study.processes)]
    groups = [group for group in groups if len(group) == study.processes]
    if not groups or (jobs or 0) > len(groups):
        raise UserError(
            f"jobs: {jobs or 1} is too many: {devices} devices hold {len(groups)} runs of {study.processes} processes"
        )
    return [seeing(group) for group in groups[:jobs]]


def _settings_file(run: StudyRun, command: str, tree: Tree) -> str:
    path = run.folder.parent / f"{run.folder.name}.{command}.yaml"
    write_data(path, dump_yaml(as_json(tree)))
    return str(path)
