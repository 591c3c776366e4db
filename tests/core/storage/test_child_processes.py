"""ChildProcess processes: they answer through their pipe, end with their parent, and one that died is noticed."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from heeded_signals import heed_signals

from phfcli.core.storage.child_processes import ChildProcess, receive, send


def echo(connection: Connection, greeting: str) -> None:
    """What the children of these tests run: it answers each message, and falls at the word "die"."""
    while True:
        try:
            message = receive(connection)
        except EOFError:
            return
        if message == "die":
            os._exit(9)
        send(connection, [greeting, message, os.environ.get("PHF_TEST_WORD")])


ECHO = f"{__name__}:echo"


def test_a_child_answers() -> None:
    child = ChildProcess(ECHO, ["hello"], {"PHF_TEST_WORD": "word"})
    assert child.send({"a": [1, "ü\n"]})
    assert child.receive() == ["hello", {"a": [1, "ü\n"]}, "word"]
    child.end()
    assert child.process.returncode == 0


def test_a_child_that_died_is_noticed() -> None:
    child = ChildProcess(ECHO, ["hello"], {})
    child.send("die")
    assert child.receive() is None
    assert not child.send("again")
    child.kill()


def test_a_child_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from phfcli.core.storage.child_processes import ChildProcess\n"
        "print(ChildProcess('tests_sleep:sleep', [], {}).process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "tests_sleep.py").write_text("import time\ndef sleep(connection): time.sleep(60)\n")
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _runs(pid)


STOPPED = """
import signal, sys
from phfcli.core.storage.child_processes import stopped_as_by_ctrl_c
try:
    with stopped_as_by_ctrl_c():
        try:
            signal.raise_signal(int(sys.argv[1]))
            print("goes on")
        finally:
            signal.raise_signal(int(sys.argv[1]))
            print("ends in peace")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_as_ctrl_c_does_and_only_once(number: signal.Signals) -> None:
    command = [sys.executable, "-c", STOPPED, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=heed_signals)
    assert done.stdout.splitlines() == ["ends in peace", "stopped"]


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    command = ["nohup", sys.executable, "-c", STOPPED, str(int(signal.SIGHUP))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["goes on", "ends in peace"]


def _runs(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
