"""The worker process: reads (gold, answer) pairs from its pipe and writes back a judgement of each."""

import contextlib
import logging
import os
import signal
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from phfcli.core.storage.child_processes import receive, send

READY = "ready"


def serve(connection: Connection, timeout_s: float, memory_bytes: int, judge: str) -> None:
    """Judges by `judge`, a "module:function", until the pipe closes. READY is sent when the slow imports are done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    logging.disable(logging.CRITICAL)  # nobody reads what math-verify would say
    module, _, name = judge.partition(":")
    decide = getattr(import_module(module), name)  # sympy: one or two seconds

    _limit_memory(memory_bytes)
    send(connection, READY)
    while True:
        try:
            gold, answer = receive(connection)
        except EOFError:
            return
        # the kernel ends this process even inside a C loop, should the parent no longer be there to do so
        signal.setitimer(signal.ITIMER_REAL, 2 * timeout_s + 5)
        try:
            verdict: str = decide(gold, answer)
        except MemoryError:
            os._exit(1)  # a fresh process rather than a damaged one; the parent counts an error
        except Exception:
            verdict = "error"
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, verdict)


def _limit_memory(extra_bytes: int) -> None:
    """Allows `extra_bytes` of address space above what the imports took. Only Linux keeps such a limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
