"""Child processes: a fresh interpreter that runs one function of this package, with a pipe for JSON messages.

It is neither a fork nor a `multiprocessing.Process`: it never imports the caller's main module (so a script needs no
`__main__` guard), can be started from a daemonic process, and may have children itself.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from phfcli.core.storage.child_processes import run; run(sys.argv)"
)
_PHF = (
    "import runpy; from phfcli.core.storage.child_processes import end_with_parent; "
    "end_with_parent(); runpy.run_module('phfcli', run_name='__main__', alter_sys=True)"
)
_PARENT_CHECK_S = 2.0
_END_WITHIN_S = 20.0


class ChildProcess:
    """A child process and the parent's end of its pipe."""

    def __init__(
        self, function: str, arguments: Sequence[Any], environment: Mapping[str, str], silent: bool = False
    ) -> None:
        """Starts a process that calls `function`, given as "module:name", with its connection and the arguments."""
        self.connection, theirs = Pipe()
        # -P: a sympy.py in the working directory must not be imported; no output may reach the caller's stdout
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path), function, str(theirs.fileno())]
            + [json.dumps(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if silent else None,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **environment},
        )
        theirs.close()

    def send(self, message: Any) -> bool:
        """Sends a message; returns False if the process has ended."""
        try:
            send(self.connection, message)
        except OSError:
            return False
        return True

    def receive(self) -> Any:
        """Waits for the next message; returns None if the process has ended."""
        try:
            return receive(self.connection)
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """Closes the pipe, upon which the process ends by itself; kills it if it does not."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_WITHIN_S)
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def run(argv: Sequence[str]) -> None:
    """The child's side of `ChildProcess`."""
    from importlib import import_module

    # some schedulers send SIGTERM to every process of a job, but the parent needs its children to complete the step
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    _, _, function, fd, *arguments = argv
    module, _, name = function.partition(":")
    end_with_parent()
    getattr(import_module(module), name)(Connection(int(fd)), *(json.loads(argument) for argument in arguments))


@contextlib.contextmanager
def logging_to(path: Path, deaf: bool) -> Iterator[None]:
    """Within it both streams are the end of a file, also of processes that are started, for as long as they live.

    deaf: they never hear Ctrl-C, which a terminal sends to them too.
    """
    sys.stdout.flush()
    old = {number: os.dup(number) for number in (1, 2)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] if deaf else [])
    try:
        with path.open("ab") as file:
            for number in old:
                os.dup2(file.fileno(), number)
        yield
    finally:
        for number, stream in old.items():
            os.dup2(stream, number)
            os.close(stream)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def stopped_as_by_ctrl_c() -> Iterator[list[int]]:
    """Within it SIGTERM and SIGHUP raise KeyboardInterrupt like Ctrl-C, once: the clean-up is not interrupted again.

    Yields a list that takes the number of the signal that came. Only the main thread can be stopped this way.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # nohup has SIGHUP ignored

    def stop(number: int, _frame: object) -> None:
        came.append(number)
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in handled:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in handled:
            signal.signal(number, before[number])


def phf_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a `phf ARGUMENTS` that ends when this process does, even if this one is killed."""
    return [sys.executable, "-P", "-c", _PHF, *arguments]


def end_with_parent() -> None:
    """From now on ends this process when its parent has ended: a killed parent cannot end its children."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
