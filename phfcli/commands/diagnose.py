"""phf diagnose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.common import (
    AsJson,
    Configs,
    Plot,
    Quiet,
    Sets,
    check_plot,
    log_console,
    percent,
    plain_table,
    print_json,
    quiet_libraries,
    result_console,
    settings_given,
)
from phfcli.core.errors import UserError, nearest
from phfcli.core.names import ENERGIES, EnergyName
from phfcli.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from phfcli.core.analysis.collect_flow import Collection
    from phfcli.core.analysis.diagnose import LayerReport
    from phfcli.core.settings import Source

_MEANING: dict[EnergyName, str] = {
    "loss": "(direction + geometry) / 2, eq. 8",
    "direction": "eq. 6",
    "geometry": "eq. 7",
    "transition": "squared norm of the student's transitions",
}
_BAR = 20
_SHADES = " ░▒▓█"
_TOKENS = 8


def diagnose(
    flows: Annotated[
        list[Path], typer.Argument(metavar="RUN|CHECKPOINT|FLOWS...", help="What saved flows, or what to --collect of.")
    ],
    energy: Annotated[str, typer.Option(metavar="KIND", help=", ".join(ENERGIES))] = "loss",
    steps: Annotated[str, typer.Option(metavar="N[,...]", help="Only the flows of these steps of a run.")] = "",
    parts: Annotated[int, typer.Option(min=1, help="Parts of a rollout in the position map.")] = 16,
    collect: Annotated[
        bool, typer.Option("--collect", help="Read the flow now: of a checkpoint, an adapter or a model.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(metavar="ID|FILE", help="--collect: new rollouts on problems with solutions.")
    ] = None,
    rollouts: Annotated[
        Path | None, typer.Option(metavar="FLOWS", help="--collect: read the rollouts of this flow file.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="--collect: so many new rollouts.")] = 8,
    base: Annotated[str | None, typer.Option(metavar="ID|DIR", help="--collect: the model under an adapter.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="--collect: keep the flow (all of it is in memory then).")
    ] = None,
    plot: Plot = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every value by step and layer.")] = None,
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
      phf diagnose --collect Qwen/Qwen3-1.7B --data problems.jsonl --samples 4
    """
    check_plot(plot)
    kind = next((name for name in ENERGIES if name == energy), None)
    if kind is None:
        raise UserError(f"--energy: {energy!r} is unknown; {nearest(energy, ENERGIES)}")
    options = [("--data", "data", data)]
    if collect:
        from phfcli.core.analysis.diagnose import diagnose as read

        typed = settings_given(config, set_, options)
        collection = _collection(flows, typed, base, rollouts, samples, log_console(quiet))
        if save is not None:
            collection.save(save)
        reports = [read(collection, kind, parts)]
    elif given := [name for name, value in _only_collecting(data, rollouts, base, save, config, set_) if value]:
        raise UserError(f"{given[0]}: only with --collect; saved flows are read as they are")
    else:
        reports = _read(flows, _numbers(steps), kind, parts)
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
    out.print(_table(reports[-1]))
    if len(reports) > 1:
        out.print(_changes(reports))
    if not quiet:
        _explain(out, reports[-1])
        for what, path in (("picture", plot), ("csv", csv), ("flow", save)):
            if path is not None:
                out.print(f"{what:<11}{path}", markup=False, soft_wrap=True)


def _only_collecting(*values: object) -> list[tuple[str, object]]:
    return list(zip(("--data", "--rollouts", "--base", "--save", "--config", "--set"), values, strict=True))


def _numbers(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--steps {text}: expected numbers such as 50,100")
    return [int(part) for part in parts]


def _read(paths: list[Path], steps: list[int], kind: EnergyName, parts: int) -> "list[LayerReport]":
    from phfcli.core.analysis import diagnose as core

    files = core.of_steps([file for path in paths for file in core.flow_files(path)], steps)
    return core.comparable([core.diagnose_file(file, kind, parts) for file in files])


def _collection(
    targets: list[Path], typed: "list[Source]", base: str | None, rollouts: Path | None, samples: int, log: "Console"
) -> "Collection":
    if len(targets) > 1:
        raise UserError("--collect: one checkpoint, adapter or model at a time")
    from phfcli.core.analysis.collect_flow import build_collection

    quiet_libraries()
    collection = build_collection(str(targets[0]), typed, base, rollouts, samples)
    told = f"rollouts: {collection.origin}; teacher: {collection.teacher_kind}"
    log.print(told, markup=False, soft_wrap=True)
    return collection


def _table(report: "LayerReport") -> "Table":
    step = "" if report.step is None else f"step {report.step}, "
    top = max(report.share)
    measures = report.measures
    rows = []
    for index, (layer, value, share) in enumerate(zip(report.layers, report.energies, report.share, strict=True)):
        own = [_number(measures[name][index], form) for name, form in _COLUMNS.values()]
        bar = "█" * round(_BAR * share / top)
        rows.append((str(layer), f"{value:.4g}", percent(share), bar, *own, _shades(report, index)))
    title = f"Layer energy at {step}{report.samples} rollouts"
    columns = ("layer", "energy", "share %", "", *_COLUMNS, "along rollout")
    return plain_table(title, columns, rows)


_COLUMNS = {
    "cosine": ("cosine", ".3f"),
    "geometry": ("geometry", ".4f"),
    "rank S": ("rank_student", ".1f"),
    "rank T": ("rank_teacher", ".1f"),
    "CKA": ("cka", ".3f"),
}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _shades(report: "LayerReport", index: int) -> str:
    """The layer's row of the position map, darker for more energy, on one scale for the whole map."""
    top = max(value for row in report.position_map for value in row if value is not None)
    steps = len(_SHADES) - 1
    return "".join(_SHADES[round(steps * (value or 0) / top)] for value in report.position_map[index])


def _changes(reports: "list[LayerReport]") -> "Table":
    rows = []
    for report in reports:
        layer, share = report.largest
        moved = percent(report.distance(reports[0]))
        step = "-" if report.step is None else str(report.step)
        mean = sum(report.energies) / len(report.energies)
        rows.append((step, f"{mean:.4g}", f"{report.entropy:.3f}", str(layer), percent(share), moved))
    columns = ("step", "mean energy", "entropy", "largest layer", "its share %", "share moved since the first, %")
    return plain_table("Over the checkpoints", columns, rows)


def _explain(out: "Console", report: "LayerReport") -> None:
    layer, share = report.largest
    uniform = percent(1 / len(report.share))
    parts = len(report.position_map[0])
    out.print(f"energy     {report.energy}: {_MEANING[report.energy]}")
    out.print(f"largest    layer {layer}, {percent(share)} % (uniform: {uniform} %)")
    out.print(f"entropy    {report.entropy:.3f} nats of at most {report.max_entropy:.3f}")
    out.print(f"where      most in part {report.largest_part + 1} of {parts} of the rollout")
    if report.tokens:
        tokens = (f"{printable(t.text)!r} {t.energy:.3g}" for t in report.tokens[:_TOKENS])
        out.print(f"tokens     most on the way to {', '.join(tokens)}", markup=False, soft_wrap=True)
