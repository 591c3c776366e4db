"""What a command costs. Loads no library: a child's peak memory is at least what this process held when it began."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def command_cost(arguments: Sequence[str], log: Path) -> tuple[float, float, int]:
    """User and system seconds of a `phf ARGUMENTS` with its children, the peak MiB of it alone, and its exit code.

    log: what it prints.
    """
    actions = [(os.POSIX_SPAWN_OPEN, fd, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for fd in (1, 2)]
    command = [sys.executable, "-m", "phfcli", *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)
