"""Workers that hang, crash, are killed or left behind: the rest is graded and nothing survives."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phfcli.core.errors import FaultError
from phfcli.core.grading.pool import DIED, Pool
from phfcli.core.storage import child_processes as children
from phfcli.grading import Grade, Grader, Status

HANGS = (r"\frac{1}{7}", r"\boxed{e^{e^{e^{e^{e}}}}}")
EASY = [(rf"\sqrt{{{n}}}", rf"\boxed{{{n}^{{1/2}}}}") for n in range(2, 8)]
CORRECT = [Grade(Status.correct, f"{n}^{{1/2}}") for n in range(2, 8)]


def _pids(grader: Grader) -> set[int]:
    return {worker.child.process.pid for worker in grader._pool._workers}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    main_ended = "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return not main_ended or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1  # another thread still holds its files


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_integers_need_no_worker() -> None:
    with Grader() as grader:
        pairs = [(str(i), rf"\boxed{{0{i % 3}}}") for i in range(6)]
        assert [g.status == Status.correct for g in grader.grade(pairs)] == [True, True, True, False, False, False]
        assert grader.grade([]) == []
        assert grader.grade([("5", "none")]) == [Grade(Status.no_answer, None)]
        assert _pids(grader) == set()


@pytest.mark.slow
def test_an_overrun_is_a_timeout_and_the_rest_is_graded_in_order() -> None:
    with Grader(workers=2, timeout_s=2.0) as grader:
        grader.grade(EASY)
        before = _pids(grader)
        grades = grader.grade([*EASY[:3], HANGS, *EASY[3:]])
        assert [*grades[:3], *grades[4:]] == CORRECT
        assert grades[3] == Grade(Status.timeout, r"e^{e^{e^{e^{e}}}}")
        assert len(before & _pids(grader)) == 1  # the other one was kept
        assert grader.lost_workers == 1
        assert grader.grade(EASY) == CORRECT


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_a_worker_that_dies_costs_its_item_only(number: signal.Signals) -> None:
    grades: list[Grade] = []
    with Grader(workers=1, timeout_s=60.0) as grader:
        thread = threading.Thread(target=lambda: grades.extend(grader.grade([HANGS, *EASY])))
        thread.start()
        _wait_for(lambda: any(worker.job is not None for worker in grader._pool._workers))
        (victim,) = _pids(grader)
        os.kill(victim, number)
        thread.join(timeout=60)
        assert [grade.status for grade in grades] == [Status.error] + [Status.correct] * len(EASY)
        assert _pids(grader) != {victim}
        assert not _is_alive(victim)


@pytest.mark.slow
def test_a_worker_that_died_between_two_calls_costs_nothing() -> None:
    with Grader(workers=1) as grader:
        assert grader.grade(EASY) == CORRECT
        (victim,) = _pids(grader)
        os.kill(victim, signal.SIGKILL)
        _wait_for(lambda: not _is_alive(victim))
        assert grader.grade(EASY) == CORRECT


@pytest.mark.slow
def test_workers_are_reused_and_leave_no_process() -> None:
    grader = Grader(workers=1)
    grader.grade(EASY)
    used = _pids(grader)
    grader.grade(EASY)
    assert _pids(grader) == used
    grader.close()
    grader.close()
    assert not any(_is_alive(pid) for pid in used)
    grader.grade(EASY[:1])  # starts anew
    left = _pids(grader)
    del grader  # as good as closing it
    assert not any(_is_alive(pid) for pid in left)


@pytest.mark.slow
def test_an_exception_in_the_middle_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    with Grader(workers=1) as grader:
        grader.grade(EASY[:1])
        used = _pids(grader)
        monkeypatch.setattr(grader._pool, "_settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            grader.grade(EASY)
        assert not any(_is_alive(pid) for pid in used)
        monkeypatch.undo()
        assert grader.grade(EASY) == CORRECT


@pytest.mark.slow
def test_a_slow_start_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_BOOT", "import time; time.sleep(3); " + children._BOOT)
    with Grader(workers=1, timeout_s=2.5) as grader:
        assert grader.grade(EASY[:1]) == CORRECT[:1]


def test_workers_that_cannot_start_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_BOOT", "raise SystemExit(1)")
    with Grader() as grader, pytest.raises(FaultError, match="no grading worker starts"):
        grader.grade(EASY)


@pytest.mark.slow
def test_too_much_memory_is_an_error_and_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = "import phfcli.core.grading.judge as m; m.judge = lambda gold, answer: bytearray(1 << 30); "
    monkeypatch.setattr(children, "_BOOT", children._BOOT.replace("run(sys", greedy + "run(sys"))
    pool = Pool(workers=1, timeout_s=20.0, memory_bytes=256 << 20)
    assert pool.judge([("1", "x")]) == [DIED]
    pool.close()


@pytest.mark.slow
def test_threads_take_turns() -> None:
    results: dict[int, list[Grade]] = {}
    with Grader(workers=1) as grader:
        threads = [threading.Thread(target=lambda i=i: results.update({i: grader.grade(EASY)})) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == dict.fromkeys(range(3), CORRECT)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (3, 3), (64, 8)])
def test_the_workers_follow_the_cpus(monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    assert Grader()._pool._size == workers
    assert Grader(workers=2, timeout_s=5.0)._pool._size == 2


@pytest.mark.parametrize("bad", [{"workers": 0}, {"timeout_s": 0.0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a grader needs"):
        Grader(**bad)  # type: ignore[arg-type]


SCRIPT = r"""
import signal, sys
from phfcli.grading import Grader
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
grader = Grader(workers=2, timeout_s=float(sys.argv[1]))
easy = [(rf"\sqrt{{{n}}}", rf"\boxed{{{n}^{{1/2}}}}") for n in range(2, 8)]
print([str(g.status) for g in grader.grade(easy)], flush=True)
print([w.child.process.pid for w in grader._pool._workers], flush=True)
grader.grade([(r"\pi", rf"\boxed{{e^{{e^{{e^{{e^{{e^{n}}}}}}}}}}}") for n in range(2, 6)])
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _run_script(tmp_path: Path, timeout_s: float) -> tuple[subprocess.Popen[str], list[int]]:
    """A script without a __main__ guard that grades, prints its workers and then waits for answers that hang."""
    script = tmp_path / "unguarded.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(timeout_s)], env=_environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(["correct"] * 6)
    pids = [int(pid) for pid in process.stdout.readline().strip(" []\n").split(",")]
    time.sleep(1.0)
    assert process.poll() is None
    return process, pids


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    process, pids = _run_script(tmp_path, 120.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert process.stdout is not None
    process.stdout.close()
    _wait_for(lambda: not any(_is_alive(pid) for pid in pids), seconds=10)


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process, pids = _run_script(tmp_path, 1.5)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    _wait_for(lambda: not any(_is_alive(pid) for pid in pids), seconds=30)
