"""phf bridge."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import (
    AsJson,
    Configs,
    Data,
    Model,
    Plot,
    Quiet,
    Seed,
    Sets,
    Setting,
    file_option,
    settings_given,
)
from phfcli.commands.output import log_console, print_result, print_table, quiet_libraries, result_console, say
from phfcli.core.errors import UserError, percent

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.bridge import BridgeReport

bridge_app = typer.Typer(rich_markup_mode="rich", no_args_is_help=True, help="Bridges to teachers of another kind.")


@bridge_app.callback()
def bridge() -> None:
    """Compare a student's hidden states with those of a teacher of another depth, width or tokenizer."""


@bridge_app.command("fit")
def fit(
    teacher: Annotated[str, Setting("teacher.model"), typer.Option(metavar="ID|DIR", help="The model to learn from.")],
    output: Annotated[
        Path,
        file_option("The bridge, a .safetensors file.", "--output", "-o", endings=[".safetensors"], panel=None),
    ],
    model: Model = None,
    data: Data = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Dimensions of the common space (8; 4 with another tokenizer).")
    ] = None,
    rollouts: Annotated[int, typer.Option(min=10, help="Rollouts to draw; a fifth of them is held out.")] = 256,
    seed: Seed = None,
    plot: Plot = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the projectors between two models' hidden states on the student's rollouts, and freeze them.

    \b
    Examples:
      phf bridge fit --model embedded --teacher teacher/ -o bridge.safetensors
      phf bridge fit --model Qwen/Qwen3-1.7B --teacher Qwen/Qwen3-4B --rank 16 -o bridge.safetensors --plot rank.png
      phf train --objective oprd --teacher external --set teacher.model=teacher/ --set oprd.bridge=bridge.safetensors
    """
    if output.exists():
        raise UserError(f"--output {output}: the file exists already; choose another name")
    from phfcli.core.settings import option_source, resolve_train

    # of all layers, as OPRD's recipe has them, a bridge would hold gigabytes
    fixed = [("objective", "oprd"), ("teacher.kind", "external"), ("oprd.layers", None), ("oprd.positions", "all")]
    sources = [option_source("phf bridge fit", key, value) for key, value in fixed]
    settings = resolve_train([*sources, *settings_given(fit, locals())])
    from phfcli.core.analysis.bridge import fit_bridge
    from phfcli.core.objectives.other_teachers import save_bridge

    quiet_libraries()
    log = log_console(quiet)
    bridge_made, report = fit_bridge(settings, rank, rollouts, lambda text: say(log, text))
    save_bridge(output, bridge_made)
    if plot is not None:
        from phfcli.core.reporting.figures import draw_bridge

        draw_bridge(report, plot)
    if json_:
        print_result({"bridge": str(output), **asdict(report)})
        return
    out = result_console()
    _show(out, report)
    if not quiet:
        say(out, f"bridge     {output}")
        out.print(f"pairs      {report.pairs} fitted, {report.held_out} held out; {report.tokenizer} tokenizer")


def _show(out: "Console", report: "BridgeReport") -> None:
    rows = [
        (str(row.rank), percent(row.explained), f"{row.before:+.3f}", f"{row.after:+.3f}", _mark(row.rank, report))
        for row in report.by_rank
    ]
    pairs = ", ".join(f"{a}-{b}" for a, b in zip(report.layers, report.teacher_layers, strict=True))
    title = f"Cosine on held-out rollouts, blocks {pairs}"
    print_table(out, title, ("rank", "variance %", "before", "after", ""), rows, text=("",))


def _mark(rank: int, report: "BridgeReport") -> str:
    return "kept" if rank == report.rank else ""
