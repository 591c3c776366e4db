"""The command `phf`. Nothing here loads torch: help and completion answer at once."""

import os
import sys
from typing import Annotated

import typer

from phfcli import __version__
from phfcli.commands.bridge import bridge_app
from phfcli.commands.compare import compare
from phfcli.commands.diagnose import diagnose
from phfcli.commands.eval import evaluate
from phfcli.commands.export import export
from phfcli.commands.report import report
from phfcli.commands.train import train
from phfcli.core.errors import DISK_FAULTS, FaultError, UserError

_STOPPED = 130  # by Ctrl-C, as a shell reports it

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
app.add_typer(bridge_app, name="bridge")


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
    """Runs the command line. A mistake of the user becomes one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = _STOPPED
    except UserError as error:
        code = _tell(2, str(error))
    except FaultError as error:
        code = _tell(1, str(error))
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        code = _tell(1, f"{error.filename or 'disk'}: {error.strerror}; what was complete on disk is intact")
    except typer.TyperException as error:
        code = _tell(2, error.format_message() if hasattr(error, "format_message") else str(error))
    if code == _STOPPED:
        _tell(code, "stopped; `train --resume` and `eval` go on from what is on disk")
    sys.exit(code)


def _tell(code: int, message: str) -> int:
    """Writes a message to stderr, in the main process only, and returns the exit code."""
    if os.environ.get("RANK", "0") != "0":
        return code
    typer.echo(f"phf: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
