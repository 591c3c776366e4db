"""phf diagnose, and what it shows: a table of layers, a table of steps, and the figures below them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import AsJson, Configs, Csv, Plot, Quiet, Sets, Setting, file_option, settings_given
from phfcli.commands.output import log_console, percent, print_json, print_table, quiet_libraries, result_console, say
from phfcli.core.errors import UserError, one_of, printable
from phfcli.core.names import ENERGIES, EnergyName

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.collect import Collection
    from phfcli.core.analysis.diagnose import LayerReport, ModelReadings
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


def show_report(out: "Console", report: "LayerReport") -> None:
    """The newest step, a row for each layer."""
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
    print_table(out, title, columns, rows, first_to_go=("", "along rollout"))


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
    """The layer's row of the position map as shades: darker is more energy, on one scale for the whole map."""
    top = max(value for row in report.position_map for value in row if value is not None)
    steps = len(_SHADES) - 1
    return "".join(_SHADES[round(steps * (value or 0) / top)] for value in report.position_map[index])


def show_state_cosine(out: "Console", report: "LayerReport") -> None:
    """OPRD's figure 8: the cosine of the last block's states over the first and the last k tokens."""
    found = report.state_cosine
    rows = [(end, *(_number(row[-1], ".4f") for row in values)) for end, values in found.ends()]
    columns = ("k tokens", *map(str, found.tokens[:-1]), "all")
    print_table(out, f"Cosine of both readers' states in block {report.layers[-1]}", columns, rows)


def show_model(out: "Console", report: "LayerReport") -> None:
    """What only a model says: the logit lens of every block, and how alike both readers' outputs are."""
    found = report.model
    if found is None:
        return
    lens, outputs = found.lens, found.outputs
    rows = []
    columns = zip(report.layers, lens.entropy, lens.agreement, lens.divergence, lens.likeliest, strict=True)
    for layer, entropy, agreement, divergence, likeliest in columns:
        words = " ".join(map(_word, likeliest))
        rows.append((str(layer), f"{entropy:.3f}", percent(agreement), f"{divergence:.4f}", words))
    title = f"Logit lens, temperature {found.temperature:g}; block {lens.shadow} is OISD's shadow"
    headers = ("layer", "entropy", "agrees %", "jsd to last", "likeliest")
    print_table(out, title, headers, rows, first_to_go=("likeliest",))
    say(out, f"written    {' '.join(map(_word, lens.words))}")
    out.print(f"top {outputs.top:<7}{percent(outputs.overlap)} % of both readers' likeliest words in common")
    out.print(f"entropies  student {outputs.entropy_student:.4f}, teacher {outputs.entropy_teacher:.4f} nats a token")

    _show_attention(out, found)
    if found.gradients is not None:
        told = ", ".join(f"{name} {norm:.4g}" for name, norm in found.gradients.items())
        say(out, f"gradients  norm of each loss term, with its weight: {told}")


def _show_attention(out: "Console", found: "ModelReadings") -> None:
    """How alike the shadow block and the last block attend, and to what most."""
    attention = found.attention
    if attention is None:
        say(out, f"attention  not read: {found.no_attention}")
        return
    out.print(
        f"attention  shadow and last block {attention.divergence:.4f} nats apart, agreement {attention.agreement:.3f}"
    )
    tokens = attention.tokens
    shares = {"shadow": [token.shadow for token in tokens], "last": [token.last for token in tokens]}
    for name, own in shares.items():
        most = sorted(zip(own, tokens, strict=True), key=lambda pair: -pair[0])[:_TOKENS]
        told = ", ".join(f"{_word(token.text)} at {token.column} {percent(share)}" for share, token in most)
        say(out, f"  {name:<9}looks at, %: {told}")


def _word(text: str) -> str:
    return printable(text).replace(" ", "␣") or "·"


def show_steps(out: "Console", reports: "list[LayerReport]") -> None:
    """Every saved step, a row each."""
    rows = []
    for report in reports:
        layer, share = report.largest
        moved = percent(report.distance(reports[0]))
        step = "-" if report.step is None else str(report.step)
        mean = sum(report.energies) / len(report.energies)
        rows.append((step, f"{mean:.4g}", f"{report.entropy:.3f}", str(layer), percent(share), moved))
    columns = ("step", "mean energy", "entropy", "largest layer", "its share %", "share moved since the first, %")
    print_table(out, "Over the checkpoints", columns, rows)


def explain(out: "Console", report: "LayerReport") -> None:
    """The figures below the tables, each named."""
    layer, share = report.largest
    uniform = percent(1 / len(report.share))
    parts = len(report.position_map[0])
    out.print(f"energy     {report.energy}: {_MEANING[report.energy]}")
    out.print(f"largest    layer {layer}, {percent(share)} % (uniform: {uniform} %)")
    out.print(f"entropy    {report.entropy:.3f} nats of at most {report.max_entropy:.3f}")
    out.print(f"where      most in part {report.largest_part + 1} of {parts} of the rollout")
    if report.tokens:
        tokens = (f"{printable(t.text)!r} {t.energy:.3g}" for t in report.tokens[:_TOKENS])
        say(out, f"tokens     most on the way to {', '.join(tokens)}")


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
        from phfcli.core.analysis.collect import read_gradients, read_model
        from phfcli.core.analysis.diagnose import diagnose as read

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
        from phfcli.core.reporting.tables import layer_table, write_csv

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
    from phfcli.core.analysis.collect import build_collection

    quiet_libraries()
    collection = build_collection(str(targets[0]), typed, base, rollouts, samples, graded)
    told = f"rollouts: {collection.origin}; teacher: {collection.teacher_kind}"
    say(log, told)
    return collection
