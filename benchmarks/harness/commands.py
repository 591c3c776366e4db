"""What a command costs. As a program, which loads no library, it is the command's parent."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def command_cost(arguments: Sequence[str], log: Path) -> tuple[float, float, int]:
    """User and system seconds of a `phf ARGUMENTS` with its children, the peak MiB of it alone, and its exit code.

    A process begins with the peak of its parent, so the parent is a small one of its own.

    log: what the command prints.
    """
    parent = [sys.executable, __file__, str(log), *arguments]
    seconds, mib, code = json.loads(subprocess.run(parent, stdout=subprocess.PIPE, check=True).stdout)
    return seconds, mib, code


def main() -> None:
    log, *arguments = sys.argv[1:]
    actions = [(os.POSIX_SPAWN_OPEN, fd, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for fd in (1, 2)]
    command = [sys.executable, "-m", "phfcli", *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    print(json.dumps([usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)]))


if __name__ == "__main__":
    main()
