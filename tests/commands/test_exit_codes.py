"""Whatever a command raises: one line and an exit code, or for a fault of ours the traceback and how to report it."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phfcli.commands.exit_codes import run_guarded
from phfcli.core.errors import FaultError, UserError

Phf = Callable[..., Any]


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("field: wrong"), 2, "phf: field: wrong"),
        (FaultError("server lost"), 1, "phf: server lost"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), 1, "a/b: No space left on device; what was complete"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 1, "raise the limit of open files (`ulimit -n`)"),
        (OSError(errno.ENOENT, "No such file or directory", "x"), 1, "a file or folder is gone"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 1, "the name is too long"),
        (OSError("no number at all"), 1, "disk: no number at all; what was complete"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "x"), 1, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (RecursionError("maximum"), 2, "nested too deeply"),
        (OSError(errno.EACCES, "Permission denied", b"bytes-\xff"), 1, "Permission denied"),
        (UserError("escape \x1b[2J and \ud800"), 2, "escape \ufffd[2J and \ufffd"),
        (KeyboardInterrupt(), 130, "stopped; `train --resume`"),
    ],
)
def test_expected_errors_are_a_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_guarded(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_what_a_reader_refused_for_want_of_memory_is_told_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> object:
        try:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        except OSError:
            raise UserError("weights: cannot be read") from None

    assert run_guarded(command) == 1
    assert capsys.readouterr().err.startswith("phf: out of memory (weights: cannot be read); ")


def test_a_limit_that_the_libraries_do_not_fit_into_is_told_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (700 * 2**20, resource.RLIM_INFINITY))
    assert run_guarded(lambda: pytest.fail("it must not begin")) == 1
    told = "the memory of a process is limited to 700 MiB here (`ulimit -v`)"
    assert capsys.readouterr().err.startswith(f"phf: {told}")


@pytest.mark.parametrize("limit", [4 * 2**30, resource.RLIM_INFINITY])
def test_an_error_that_the_interpreter_lost_is_one_of_memory_where_memory_is_limited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    assert run_guarded(raising(SystemError("error return without exception set"))) == 1
    told = capsys.readouterr().err
    assert ("Traceback" in told, "out of memory" in told) == (limit < 0, limit > 0)


def test_a_fault_of_ours_shows_where_and_how_to_report_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(raising(KeyError("x"))) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "KeyError" in err
    assert "please report it" in err.splitlines()[-1]


def phf_process(*args: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-m", "phfcli", *args], capture_output=True, check=False, **options)


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "phfcli", "eval", "--bench", "list"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && {sys.executable} -m phfcli eval . --limit 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    done = phf_process("eval", os.fsdecode(b"model-\xff"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1


def test_a_loop_of_links(phf: Phf, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    done = phf("eval", "a")
    assert done.code == 2
    assert "a loop of symbolic links" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1]\nb: *a\n", "aliases (*name) are not read"),
        ("seed: 1\noptim: {lr: 1.0e-4, lr: 1.0e-5}\n", "line 2: not valid YAML: lr is given twice"),
        ("seed: 1\nsteps: 2\nseed: 3\n", "line 3: not valid YAML: seed is given twice"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("steps: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
        ("steps: 2001-99-99", "not valid YAML"),
    ],
)
def test_yaml_that_repeats_or_nests_itself(phf: Phf, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    done = phf("train", "--config", "x.yaml", "--dry-run")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_terminal_without_utf8_gets_other_characters(tmp_path: Path) -> None:
    (tmp_path / "\u00fc.jsonl").write_text('{"answer": "7", "completion": "\u221a7"}\n', encoding="utf-8")
    command = [sys.executable, "-m", "phfcli", "grade", "\u00fc.jsonl", "--policies", "strict"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | ascii_only, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"1 samples of 1 problems" in done.stdout
