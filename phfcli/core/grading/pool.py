"""Worker processes that judge pairs; one that exceeds its time limit is killed and replaced."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path

from phfcli.core.errors import FaultError
from phfcli.core.storage.child_processes import ChildProcess, receive, send

READY = "ready"


def serve(connection: Connection, timeout_s: float, memory_bytes: int, judge: str) -> None:
    """The main loop of a worker: judges pairs until the pipe closes; sends READY after the slow imports.

    Args:
        judge: the function that judges, as "module:function".
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends its workers
    logging.disable(logging.CRITICAL)  # nobody reads the log of math-verify
    module, _, name = judge.partition(":")
    decide = getattr(import_module(module), name)  # imports sympy, which takes one or two seconds

    _limit_memory(memory_bytes)
    send(connection, READY)
    while True:
        try:
            gold, answer = receive(connection)
        except EOFError:
            return
        # if the parent is gone, the kernel's timer ends this process even inside a C loop
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_s + 5)
        try:
            verdict: str = decide(gold, answer)
        except MemoryError:
            os._exit(1)  # the process may be damaged; the parent counts an error and starts another one
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, verdict)


def _limit_memory(extra_bytes: int) -> None:
    """Limits the address space to `extra_bytes` above what the imports take; only Linux enforces it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


TIMEOUT = "timeout"
DIED = "died"

_START_S = 180.0  # for importing sympy on a busy machine
_MAX_FAILED_STARTS = 3
_SERVE = "phfcli.core.grading.pool:serve"
OUR_JUDGE = "phfcli.core.grading.judge:judge"
# the same hash order and number types everywhere, so that a judgement does not depend on the machine
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "SYMPY_GROUND_TYPES": "python", "MPMATH_NOGMPY": "1", "PYTHONWARNINGS": "ignore"}


class _Worker:
    """One process. `job` is the index of the pair that it judges, None while it starts or is idle."""

    def __init__(self, timeout_s: float, memory_bytes: int, judge: str) -> None:
        self.child = ChildProcess(_SERVE, [timeout_s, memory_bytes, judge], _ENVIRONMENT, silent=True)
        self.ready = False
        self.job: int | None = None
        self.deadline = time.monotonic() + _START_S

    def send(self, job: int, pair: tuple[str, str], timeout_s: float) -> bool:
        """Hands out a job; False if the worker has died since its last one."""
        if not self.child.send(pair):
            return False
        self.job, self.deadline = job, time.monotonic() + timeout_s
        return True


class Pool:
    """Judges pairs of texts in at most `workers` processes, which start when first needed.

    Args:
        judge: the function that judges a pair, as "module:function"; `Pool.judge` returns its verdicts.
    """

    def __init__(self, workers: int, timeout_s: float, memory_bytes: int, judge: str = OUR_JUDGE) -> None:
        self._size, self._timeout_s, self._memory_bytes, self._judge = workers, timeout_s, memory_bytes, judge
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._failed_starts = 0
        self.lost = 0  # workers that exceeded the limit or died
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The verdict of each pair: that of the judge, "error", TIMEOUT (over `timeout_s`) or DIED (crashed, killed).

        It takes at most about len(pairs) / workers * (timeout_s + the start of a process).

        Raises:
            FaultError: processes cannot be started.
        """
        with self._lock:
            words = [""] * len(pairs)
            todo = deque(range(len(pairs)))
            try:
                while todo or any(worker.job is not None for worker in self._workers):
                    self._hand_out(todo, pairs)
                    self._collect(words)
            except BaseException:
                self.close()  # a worker in the middle of a job would send its verdict to the next call
                raise
            return words

    def close(self) -> None:
        """Ends every worker. The pool starts new ones if it is used again."""
        _kill_all(self._workers, os.getpid())

    def _hand_out(self, todo: deque[int], pairs: Sequence[tuple[str, str]]) -> None:
        for worker in list(self._workers):
            if todo and worker.ready and worker.job is None:
                job = todo.popleft()
                if not worker.send(job, pairs[job], self._timeout_s):
                    todo.appendleft(job)  # the worker died between two calls, which is not the fault of this pair
                    self._drop(worker)
        starting = sum(not worker.ready for worker in self._workers)
        while len(self._workers) < self._size and starting < len(todo):
            self._workers.append(_Worker(self._timeout_s, self._memory_bytes, self._judge))
            starting += 1

    def _collect(self, words: list[str]) -> None:
        """Waits for the next verdict or deadline, and records it."""
        waiting = {w.child.connection: w for w in self._workers if not w.ready or w.job is not None}
        if not waiting:
            return
        wait_s = min(worker.deadline for worker in waiting.values()) - time.monotonic()
        for connection in wait(list(waiting), timeout=max(wait_s, 0.0)):
            assert isinstance(connection, Connection)
            self._settle(waiting.pop(connection), words)
        for worker in waiting.values():
            if worker.deadline <= time.monotonic():
                self._lose(worker, TIMEOUT, words)

    def _settle(self, worker: _Worker, words: list[str]) -> None:
        word: str | None = worker.child.receive()
        if word is None:
            self._lose(worker, DIED, words)
        elif word == READY:
            worker.ready = True
            self._failed_starts = 0
        else:
            assert worker.job is not None
            words[worker.job], worker.job = word, None

    def _lose(self, worker: _Worker, word: str, words: list[str]) -> None:
        self._drop(worker)
        if worker.job is not None:
            words[worker.job] = word
            return
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise FaultError(f"no grading worker starts ({word}): check `{sys.executable} -c 'import math_verify'`")

    def _drop(self, worker: _Worker) -> None:
        with contextlib.suppress(ValueError):  # another thread has closed the pool
            self._workers.remove(worker)
        worker.child.kill()
        self.lost += 1


def _kill_all(workers: list[_Worker], owner: int) -> None:
    """Kills all workers. Runs also at garbage collection and interpreter exit, but not in a forked child."""
    while workers and os.getpid() == owner:
        with contextlib.suppress(OSError):
            workers.pop().child.kill()
