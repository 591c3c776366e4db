"""Runs a study: one `phf` process for each core, or for each group of devices; what is finished is skipped.

Every command that it starts goes on where an earlier one was stopped, so that the study does too.
"""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from phfcli.core.errors import UserError
from phfcli.core.settings import Tree
from phfcli.core.storage.child_processes import phf_command, stopped_as_by_ctrl_c
from phfcli.core.storage.files import as_json, write_text
from phfcli.core.studies.plan import Part, Study, StudyRun
from phfcli.core.studies.rates import known_runs
from phfcli.core.studies.record import finished, write_record

Environment = Mapping[str, str]


class Schedule:
    """The work of a study.

    Attributes:
        at_work: by name the runs that are at work now, and since when (monotonic seconds).
        jobs: how many runs are at work at a time.
        failed: runs whose command failed; its words are in the run's log.
        stopped: whether the study is being stopped, so that what ends now has not failed.
    """

    def __init__(
        self, study: Study, part: Part, slots: Sequence[Environment], after_run: Callable[[StudyRun], None]
    ) -> None:
        self.study, self.part = study, part
        self.at_work: dict[str, tuple[StudyRun, float]] = {}
        self.failed: list[StudyRun] = []
        self.stopped = False
        self._after_run = after_run
        self._slots: queue.SimpleQueue[Environment] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self.jobs = len(slots)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._one = threading.Lock()  # at a time tells of its end

    def run(self) -> None:
        """Searches the rates that the wanted runs need, then makes these. A failed run leaves the others alone."""
        with stopped_as_by_ctrl_c():
            self._all(self.part.searches(self.study))
            self._all([run for run in known_runs(self.study) if self.part.has(run)])

    def _all(self, runs: Sequence[StudyRun]) -> None:
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
        with self._one:
            if done:
                write_record(run)
            elif not self.stopped:
                self.failed.append(run)
            self._after_run(run)

    def _phf(self, arguments: Sequence[str], run: StudyRun, slot: Environment) -> bool:
        """Whether the command ended well; what it says goes to the log beside the run's folder."""
        if self.stopped:
            return False
        with log_of(run).open("ab") as log:
            process = subprocess.Popen(
                phf_command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **slot},
                start_new_session=True,  # Ctrl-C is for this process: it asks the others to stop
            )
            self._processes.add(process)
            try:
                return process.wait() == 0
            finally:
                self._processes.discard(process)


def commands_of(run: StudyRun) -> list[list[str]]:
    """The arguments of `phf` that make a run; their settings are written to files beside its folder."""
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
    return run.folder.parent / f"{run.folder.name}.log"


def slots_for(study: Study, jobs: int | None) -> list[Environment]:
    """The environment of each process that works at a time.

    Raises:
        UserError: for more jobs than there are groups of devices.
    """
    import torch

    devices = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0))
    if not devices:
        jobs = jobs or max(1, cores // study.processes)
        return [{"OMP_NUM_THREADS": str(max(1, cores // jobs // study.processes))}] * jobs
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(devices)))).split(",")
    groups = [visible[first : first + study.processes] for first in range(0, devices, study.processes)]
    groups = [group for group in groups if len(group) == study.processes]
    if not groups or (jobs or 0) > len(groups):
        raise UserError(f"--jobs {jobs or 1}: {devices} devices hold {len(groups)} runs of {study.processes} processes")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups[:jobs]]


def _settings_file(run: StudyRun, command: str, tree: Tree) -> str:
    path = run.folder.parent / f"{run.folder.name}.{command}.yaml"
    write_text(path, yaml.safe_dump(as_json(tree), sort_keys=False, allow_unicode=True))
    return str(path)
