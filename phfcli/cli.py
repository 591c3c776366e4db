"""The command `phf`. Nothing here loads torch: help and completion answer at once."""

import platform
import sys
from typing import Annotated

import typer

from phfcli.commands.bridge import bridge_app
from phfcli.commands.collect import collect
from phfcli.commands.compare import compare
from phfcli.commands.config import config_app
from phfcli.commands.diagnose import diagnose
from phfcli.commands.doctor import doctor
from phfcli.commands.eval import evaluate
from phfcli.commands.exit_codes import run_guarded
from phfcli.commands.export import export, push
from phfcli.commands.grade import grade
from phfcli.commands.probe import probe
from phfcli.commands.report import report
from phfcli.commands.runs import runs, verify, watch
from phfcli.commands.study import study
from phfcli.commands.train import MUST_RESUME, train
from phfcli.core.version import __version__, installed

app = typer.Typer(
    name="phf",
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train, evaluate, diagnose and compare reasoning models by on-policy self-distillation.",
    epilog="Start with `phf train`: PHF on the embedded model and problems, on any machine, in about two minutes.",
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("collect")(collect)
app.command("diagnose")(diagnose)
app.command("compare")(compare)
app.command("probe")(probe)
app.command("grade")(grade)
app.command("report")(report)
app.command("export")(export)
app.command("verify")(verify)
app.command("study")(study)
app.command("doctor")(doctor)
app.command("push")(push)
app.command("runs")(runs)
app.command("watch")(watch)
app.add_typer(bridge_app, name="bridge")
app.add_typer(config_app, name="config")


_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "vllm")


def _show_versions(verbose: bool) -> None:
    """The version of this program; with `verbose` also those of what it runs on, as a bug report needs them."""
    typer.echo(f"phf {__version__}")
    for name in _LIBRARIES if verbose else ():
        typer.echo(f"{name} {installed(name) or 'is not installed'}")
    if verbose:
        typer.echo(f"Python {platform.python_version()} on {platform.platform()}")


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --version: those of Python and the libraries too.")
    ] = False,
) -> None:
    """Train, evaluate, diagnose and compare reasoning models by on-policy self-distillation."""
    if version:
        _show_versions(verbose)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command line and exits with its code."""
    words = [MUST_RESUME if word == "--resume=must" else word for word in sys.argv[1:]]
    sys.exit(run_guarded(lambda: app(words, standalone_mode=False)))


if __name__ == "__main__":
    main()
