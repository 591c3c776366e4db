"""The worker process: reads (gold, answer) pairs as JSON from an inherited pipe and writes back one word for each.

A fresh interpreter, not a fork and not a `multiprocessing.Process`: it never imports the caller's main module (so a
script needs no `__main__` guard), can be started from a daemonic process, and starts no helper process of its own.
"""

import contextlib
import json
import logging
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

READY = "ready"
_LOOK_FOR_PARENT_S = 10.0


def serve(fd: int, timeout_s: float, memory_bytes: int) -> None:
    """Runs until the pipe closes or the parent is gone. READY is sent when the slow imports are done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    logging.disable(logging.CRITICAL)  # nobody reads what math-verify would say
    parent = os.getppid()
    from phfcli.core.grading.judge import judge  # sympy: one or two seconds

    _limit_memory(memory_bytes)
    connection = Connection(fd)
    _send(connection, READY)
    while os.getppid() == parent:
        if not connection.poll(_LOOK_FOR_PARENT_S):
            continue
        try:
            gold, answer = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # the kernel ends this process even inside a C loop, should the parent no longer be there to do so
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_s + 5)
        try:
            verdict: str = judge(gold, answer)
        except MemoryError:
            os._exit(1)  # a fresh process rather than a damaged one; the parent counts an error
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(connection, verdict)


def _send(connection: Connection, word: str) -> None:
    connection.send_bytes(word.encode())


def _limit_memory(extra_bytes: int) -> None:
    """Allows `extra_bytes` of address space above what the imports took. Only Linux keeps such a limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
