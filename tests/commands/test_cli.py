"""The command line itself: instant help, versions, and one line for a mistake."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from phfcli import __version__

COMMANDS = (["train"], ["eval"], ["diagnose"], ["compare"], ["report"], ["export"], ["bridge", "fit"])


@pytest.mark.parametrize("args", [["--help"], *([*c, "--help"] for c in COMMANDS)])
def test_help_has_examples_and_loads_neither_torch_nor_transformers(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['phf', *{args!r}]\n"
        "from phfcli.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Usage: phf" in done.stdout
    if len(args) > 1:
        examples = done.stdout.partition("Examples:")[2].splitlines()
        assert examples[1].strip().startswith(f"phf {' '.join(args[:-1])} ")


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "phfcli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"phf {__version__}\n"


def test_shell_completion_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PHF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "phf train --objective p")
    monkeypatch.setenv("COMP_CWORD", "3")
    code = "import sys; sys.argv = ['phf']\nfrom phfcli.cli import app\napp(prog_name='phf')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["phf", "phf-local", "pointwise"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["tran"], "Did you mean 'train'?"),
        (["train", "--stepz", "3"], "No such option: --stepz"),
        (["train", "--steps", "many"], "'--steps': 'many' is not a valid int"),
        (["eval"], "TARGET: name a run"),
    ],
)
def test_a_typo_is_one_line(phf: Callable[..., Any], args: list[str], message: str) -> None:
    done = phf(*args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_without_arguments_it_shows_its_help(phf: Callable[..., Any]) -> None:
    done = phf()
    assert done.code == 0
    assert "─ Commands ─" in done.out
