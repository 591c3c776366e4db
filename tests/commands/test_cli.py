"""The command line itself: instant help, versions, and one line for a mistake."""

import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any, get_type_hints

import pytest
from refusals import refused
from typer.main import get_command

from phfcli import __version__
from phfcli.cli import app
from phfcli.commands.eval import evaluate
from phfcli.commands.options import Setting
from phfcli.commands.train import train

COMMANDS = (
    ["train"],
    ["eval"],
    ["diagnose"],
    ["compare"],
    ["report"],
    ["export"],
    ["verify"],
    ["study"],
    ["bridge", "fit"],
)


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


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("runs.targets analysis.compare analysis.regrade reporting.tables runs.readings runs.summaries", "torch"),
        ("analysis.diagnose reporting.report_page", "transformers"),
    ],
)
def test_what_reads_files_loads_no_library_that_it_does_not_need(modules: str, unneeded: str) -> None:
    names = ", ".join(f"phfcli.core.{name}" for name in modules.split())
    code = f"import sys, {names}; assert '{unneeded}' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", [train, evaluate], ids=["train", "eval"])
def test_what_was_not_typed_leaves_the_settings_alone(command: Callable[..., Any]) -> None:
    """An option with a value of its own would win over a --config file without a word."""
    hints = get_type_hints(command, include_extras=True)
    settings = [
        name for name, hint in hints.items() if any(isinstance(m, Setting) for m in getattr(hint, "__metadata__", ()))
    ]
    assert settings
    assert {signature(command).parameters[name].default for name in settings} == {None}


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "phfcli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"phf {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train --objective p", ["phf", "phf-direction", "phf-geometry", "phf-local", "pointwise"]),
        ("train --config qwen3-1", ["qwen3-1.7b", "qwen3-1.7b-one-gpu"]),
        ("train --set divergence.c", ["divergence.clip=", "divergence.clip_mode="]),
        ("eval --bench embedded,aime2", ["embedded,aime24", "embedded,aime25"]),
        ("eval --engine t", ["transformers"]),
        ("compare --view m", ["methods"]),
    ],
)
def test_the_shell_is_offered_names(typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PHF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"phf {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    code = "import sys; sys.argv = ['phf']\nfrom phfcli.cli import app\napp(prog_name='phf')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered


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


PLOTTED = (
    ["diagnose", "nowhere"],
    ["compare", "nowhere"],
    ["bridge", "fit", "--teacher", "nowhere", "-o", "b.safetensors"],
)


@pytest.mark.parametrize("args", PLOTTED, ids=lambda args: args[0])
@pytest.mark.parametrize("name", ["x.gif", "x", "x.pdf.gz"])
def test_a_picture_of_another_format_is_refused_before_anything_else(
    phf: Callable[..., Any], args: list[str], name: str
) -> None:
    refused(phf(*args, "--plot", name), f"--plot {name}: use a name that ends in .png, .svg, .pdf")


def test_no_other_command_draws_pictures() -> None:
    """So that the test above is told of a new one."""
    root: Any = get_command(app)
    groups = {name: getattr(command, "commands", {"": command}) for name, command in root.commands.items()}
    plotting = {name for name, own in groups.items() if any(map(has_plot, own.values()))}
    assert plotting == {args[0] for args in PLOTTED}


def has_plot(command: Any) -> bool:
    return any("--plot" in param.opts for param in command.params)
