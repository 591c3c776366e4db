"""Errors at the edge: whatever a command raises becomes an exit code and, where it helps, one line on stderr.

0 done; 1 a fault: the disk, the memory, a lost server or worker; 2 a mistake in the input; 130 stopped by Ctrl-C,
143 by SIGTERM, 129 by SIGHUP. Only a fault of this program or of a plugin shows its traceback, with the request to
report it or the name of the plugin.
"""

import errno
import io
import logging
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import typer

from phfcli.core.errors import DISK_FAULTS, FaultError, UserError, first_line, masked, printable
from phfcli.core.extensions import owner
from phfcli.core.storage.child_processes import stopped_as_by_ctrl_c
from phfcli.core.version import __version__

_STOPPED = 130  # by Ctrl-C, as a shell reports it
_SAFE = "what was complete on disk is intact"
_GO_ON = "`train --resume` and `eval` go on from what is on disk"
_FIXES = {
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ELOOP: "a symbolic link stands where a file should be, or the path is a loop of them",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ENOENT: "a file or folder is gone; do not move a run while it is in use",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
    errno.EEXIST: "a file stands where a folder should be",
}
# how torch on a CPU and the system say that memory ran out; on a GPU torch raises OutOfMemoryError
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "failed to map segment",
    "can't start new thread",
)
_LEAST_ADDRESSES = (
    2 * 2**30
)  # bytes of addresses that the libraries take before any work; with less they fail in many ways


class Told(int):
    """An exit code whose reason has been told already."""


def run_guarded(command: Callable[[], object]) -> int:
    """Runs a command line; returns its exit code. Every expected error is one line on stderr."""
    _open_closed_streams()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a line whenever a library imports it
    with stopped_as_by_ctrl_c() as came:
        try:
            _check_folder()
            _check_address_space()
            code = command()
            sys.stdout.flush()
        except (typer.Abort, KeyboardInterrupt):
            code = _STOPPED
        except BrokenPipeError:
            return _leave_closed_stdout()
        except Exception as error:
            return _report(error)
    if code == _STOPPED and not isinstance(code, Told):  # typer turns Ctrl-C into this code
        _write_line(f"stopped; {_GO_ON}")
        return 128 + came[0] if came else _STOPPED
    return int(code) if isinstance(code, int) else 0


def _check_folder() -> None:
    """Raises UserError where the current folder has been removed: torch's libraries would end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the current folder is gone; change into one that is there") from None


def _check_address_space() -> None:
    """Raises FaultError where the shell's limit leaves less than the libraries themselves take."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESSES:
        raise FaultError(
            f"the memory of a process is limited to {limit / 2**20:,.0f} MiB here (`ulimit -v`), and the libraries "
            f"alone take up to {_LEAST_ADDRESSES / 2**20:,.0f} MiB of addresses: raise the limit"
        )


def _open_closed_streams() -> None:
    """Replaces a stream that was closed before the start, which is None in Python, by one that goes nowhere.

    On a terminal that has fewer characters than UTF-8, as with LANG=C, "?" stands for the others.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report(error: Exception) -> int:
    """Writes what a command raised to stderr; returns the exit code."""
    if _out_of_memory(error):
        return _write_line(
            f"out of memory ({first_line(error)}); {_SAFE}. A smaller micro_batch_size or "
            f"rollout.max_new_tokens, or gradient_checkpointing=true, takes less; {_GO_ON}",
            1,
        )
    if isinstance(error, UserError):
        from phfcli.api.spellings import in_our_words

        return _write_line(in_our_words(error), 2)
    if isinstance(error, FaultError):
        return _write_line(str(error), 1, error.alone)
    if isinstance(error, typer.TyperException):
        return _write_line(_of_usage(error), 2)
    if isinstance(error, OSError):
        return _write_line(_of_system(error), 1)
    if isinstance(error, RecursionError):
        return _write_line("a file or an answer is nested too deeply to be read", 2)
    plugin = _plugin_of(error)
    if plugin is not None:
        _write_line(f"{plugin}: its own code has failed, as the traceback below shows. {_GO_ON}")
        traceback.print_exception(error)
        return 1
    sys.stderr.write(masked("".join(traceback.format_exception(error))))
    return _write_line(
        f"this is a fault of phf {__version__} itself: please report it with the lines above. {_GO_ON}", 1
    )


def _plugin_of(error: Exception) -> str | None:
    """The plugin (objective, teacher, ... of another package) in whose code an error was raised; None is in none."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((plugin for module in modules if (plugin := owner(module))), None)


def _of_usage(error: typer.TyperException) -> str:
    """What is wrong with the command line. For an option of another trainer it names the one of this program."""
    from phfcli.api.spellings import answer

    message = error.format_message() if hasattr(error, "format_message") else str(error)
    ours = answer(getattr(error, "option_name", ""))
    return f"{getattr(error, 'option_name', '')}: {ours}; settings are given as --set KEY=VALUE" if ours else message


def _of_system(error: OSError) -> str:
    """What the operating system has refused, in a line."""
    where = error.filename if error.filename is not None else "disk"
    where = os.fsdecode(where) if isinstance(where, str | bytes) else str(where)
    what = error.strerror or first_line(error)
    fix = _FIXES.get(error.errno or 0)
    if fix is not None and error.errno not in DISK_FAULTS:
        return f"{where}: {what}: {fix}; {_SAFE}"
    return f"{where}: {what}; {_SAFE}"


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, also where a reader has turned that into a UserError, or an import into a SystemError."""
    if isinstance(error, UserError):
        return _out_of_memory(error.__context__)
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, SystemError) and limited)
        or any(words in str(error) for words in _NO_MEMORY)
    )


def _write_line(message: str, code: int = 0, alone: bool = False) -> int:
    """Writes a line to stderr, of several processes in the main one or in that which is `alone`; returns the code."""
    if alone or os.environ.get("RANK", "0") == "0":
        line = printable(" ".join(f"phf: {masked(message)}".split()))
        try:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr is closed: the exit code is all that is left to say
    return code


def _leave_closed_stdout() -> int:
    """For a pipe whose reader has ended, as `head` does: stdout goes nowhere, so that Python reports no broken pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
