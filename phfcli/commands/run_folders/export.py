"""phf export."""

from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Base, Quiet
from phfcli.commands.output import log_console, print_json, quiet_libraries, result_console, say


def export(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run, a checkpoint or an adapter.")],
    merged: Annotated[Path, typer.Option("--merged", metavar="DIR", help="A new folder for the whole model.")],
    base: Base = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fold a checkpoint's adapter into its base model and write a plain model folder.

    The sum is taken on the CPU in float32 (four bytes a parameter) and rounded once to the base's own precision.

    \b
    Examples:
      phf export runs/phf-embedded-seed0 --merged merged/
      phf export runs/phf/checkpoints/step-000050 --merged merged-50/
      phf export my-adapter/ --base Qwen/Qwen3-4B --merged qwen3-4b-phf/
    """
    from phfcli.core.analysis.export import export_merged

    quiet_libraries()
    say(log_console(quiet), f"merging {target}")
    dtype = str(export_merged(target, merged, base)).removeprefix("torch.")
    if json_:
        print_json({"target": target, "folder": str(merged), "dtype": dtype})
    else:
        say(result_console(), f"model      {merged} ({dtype})")
