"""phf diagnose."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import (
    AsJson,
    Configs,
    Csv,
    Plot,
    Quiet,
    Sets,
    Setting,
    file_option,
    settings_given,
)
from phfcli.commands.output import log_console, print_json, quiet_libraries, result_console, say
from phfcli.commands.views.diagnosis import explain, show_model, show_report, show_state_cosine, show_steps
from phfcli.core.errors import UserError, one_of
from phfcli.core.names import ENERGIES

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.collect_flow import Collection
    from phfcli.core.settings import Source

COLLECT = "With --collect"  # a panel of the help


def diagnose(
    flows: Annotated[
        list[Path], typer.Argument(metavar="RUN|CHECKPOINT|FLOWS...", help="What saved flows, or what to --collect of.")
    ],
    energy: Annotated[str, typer.Option(metavar="KIND", help=", ".join(ENERGIES))] = "loss",
    steps: Annotated[str, typer.Option(metavar="N[,...]", help="Only the flows of these steps of a run.")] = "",
    parts: Annotated[int, typer.Option(min=1, help="Parts of a rollout in the position map.")] = 16,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            help="Read the flow now: of a checkpoint, an adapter or a model; more than a saved one says.",
            rich_help_panel=COLLECT,
        ),
    ] = False,
    data: Annotated[
        str | None,
        Setting("data"),
        typer.Option(metavar="ID|FILE", help="New rollouts on these problems.", rich_help_panel=COLLECT),
    ] = None,
    rollouts: Annotated[
        Path | None,
        typer.Option(metavar="FLOWS", help="Read the rollouts of this flow file.", rich_help_panel=COLLECT),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many new rollouts.", rich_help_panel=COLLECT)] = 8,
    base: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="The model under an adapter.", rich_help_panel=COLLECT),
    ] = None,
    save: Annotated[
        Path | None,
        file_option("Keep the flow (all of it is in memory then).", panel=COLLECT),
    ] = None,
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients",
            help="The gradient norm of each loss term too, at about the cost of a training step.",
            rich_help_panel=COLLECT,
        ),
    ] = False,
    plot: Plot = None,
    csv: Csv = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what the hidden flow did: over depth, along the rollout and over training.

    \b
    Examples:
      phf diagnose runs/phf-embedded-seed0  # every saved flow; the newest in detail
      phf diagnose runs/phf-embedded-seed0 --energy transition --plot layers.png --csv layers.csv
      phf diagnose runs/phf-embedded-seed0/flows/step-000050.safetensors --json
      phf diagnose --collect runs/opsd-embedded-seed0/checkpoints/step-000100
      phf diagnose --collect runs/phf-embedded-seed0 --gradients --plot all.png
      phf diagnose --collect Qwen/Qwen3-1.7B --data problems.jsonl --samples 4
    """
    kind = one_of("--energy", energy, ENERGIES)
    if collect:
        from phfcli.core.analysis.diagnose import diagnose as read
        from phfcli.core.analysis.readings.from_model import read_model
        from phfcli.core.analysis.readings.gradients import read_gradients

        typed = settings_given(diagnose, locals())
        collection = _collection(flows, typed, base, rollouts, samples, gradients, log_console(quiet))
        if save is not None:
            collection.save(save)
        norms = read_gradients(collection) if gradients else None  # first, since it may be refused
        told = replace(read_model(collection), gradients=norms)
        reports = [replace(read(collection, kind, parts), model=told)]
    elif given := [
        name for name, value in _only_collecting(data, rollouts, base, save, gradients, config, set_) if value
    ]:
        raise UserError(f"{given[0]}: only with --collect; saved flows are read as they are")
    else:
        from phfcli.core.analysis.diagnose import diagnose_saved

        reports = diagnose_saved(flows, kind, _numbers(steps), parts)
    if plot is not None:
        from phfcli.core.reporting.figures import draw_layers

        draw_layers(reports, plot)
    if csv is not None:
        from phfcli.core.reporting.table_export import layer_table, write_csv

        write_csv(csv, layer_table(reports))
    if json_:
        print_json(reports[-1].as_json() | {"steps": [report.as_json() for report in reports]})
        return
    out = result_console()
    show_report(out, reports[-1])
    show_state_cosine(out, reports[-1])
    show_model(out, reports[-1])
    if len(reports) > 1:
        show_steps(out, reports)
    if not quiet:
        explain(out, reports[-1])
        for what, path in (("picture", plot), ("csv", csv), ("flow", save)):
            if path is not None:
                say(out, f"{what:<11}{path}")


def _only_collecting(*values: object) -> list[tuple[str, object]]:
    names = ("--data", "--rollouts", "--base", "--save", "--gradients", "--config", "--set")
    return list(zip(names, values, strict=True))


def _numbers(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--steps {text}: expected numbers such as 50,100")
    return [int(part) for part in parts]


def _collection(
    targets: list[Path],
    typed: "list[Source]",
    base: str | None,
    rollouts: Path | None,
    samples: int,
    graded: bool,
    log: "Console",
) -> "Collection":
    if len(targets) > 1:
        raise UserError("--collect: one checkpoint, adapter or model at a time")
    from phfcli.core.analysis.collect_flow import build_collection

    quiet_libraries()
    collection = build_collection(str(targets[0]), typed, base, rollouts, samples, graded)
    told = f"rollouts: {collection.origin}; teacher: {collection.teacher_kind}"
    say(log, told)
    return collection
