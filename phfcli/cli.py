"""The command `phf`. Nothing here loads torch: help and completion answer at once."""

import sys
from typing import Annotated

import typer

from phfcli import __version__
from phfcli.commands.bridge import bridge_app
from phfcli.commands.compare import compare
from phfcli.commands.config import config_app
from phfcli.commands.diagnose import diagnose
from phfcli.commands.doctor import doctor
from phfcli.commands.door import run_guarded
from phfcli.commands.eval import evaluate
from phfcli.commands.export import export
from phfcli.commands.report import report
from phfcli.commands.runs import runs, watch
from phfcli.commands.study import study
from phfcli.commands.train import train
from phfcli.commands.verify import verify

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
app.command("diagnose")(diagnose)
app.command("compare")(compare)
app.command("report")(report)
app.command("export")(export)
app.command("verify")(verify)
app.command("study")(study)
app.command("doctor")(doctor)
app.command("runs")(runs)
app.command("watch")(watch)
app.add_typer(bridge_app, name="bridge")
app.add_typer(config_app, name="config")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"phf {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Train, evaluate, diagnose and compare reasoning models by on-policy self-distillation."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run_guarded(lambda: app(standalone_mode=False)))


if __name__ == "__main__":
    main()
