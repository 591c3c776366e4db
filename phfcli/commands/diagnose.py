"""phf diagnose, and what it shows: a table of layers, a table of steps, and the figures below them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import AsJson, Csv, Plot, Quiet
from phfcli.commands.output import print_result, print_table, result_console, say
from phfcli.core.errors import UserError, one_of, percent, printable
from phfcli.core.names import ENERGIES, EnergyName

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.diagnose import LayerReport, TokenEnergy

_MEANING: dict[EnergyName, str] = {
    "loss": "(direction + geometry) / 2, eq. 8",
    "direction": "eq. 6",
    "geometry": "eq. 7",
    "transition": "squared norm of the student's transitions",
}
_COLUMNS = {
    "cosine": ("cosine", ".3f"),
    "geometry": ("geometry", ".4f"),
    "rank S": ("rank_student", ".1f"),
    "rank T": ("rank_teacher", ".1f"),
    "CKA": ("cka", ".3f"),
}
_BAR = 20  # characters of the longest bar
_SHADES = " ░▒▓█"
_TOKENS = 8  # listed, those of most energy


def diagnose(
    flows: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|CHECKPOINT|FLOWS...", help="A run or checkpoint with saved flows, or a flow file."),
    ],
    energy: Annotated[str, typer.Option(metavar="KIND", help=", ".join(ENERGIES))] = "loss",
    steps: Annotated[str, typer.Option(metavar="N[,...]", help="Only the flows of these steps of a run.")] = "",
    parts: Annotated[int, typer.Option(min=1, help="Parts of a rollout in the position map.")] = 16,
    plot: Plot = None,
    panel: Annotated[
        str | None,
        typer.Option(metavar="NAME|all", help="One chart as wide as a paper's column, such as shares; or all."),
    ] = None,
    csv: Csv = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what the hidden flow did: over depth, along the rollout and over training; several runs side by side.

    --plot draws the share of the energy by block and, of several steps, over training. Further charts, by --panel:
    entropies, position-map, terms, agreement, ranks, state-cosine, beside-the-paper, lens-entropy.

    \b
    Examples:
      phf diagnose runs/phf-embedded-seed0  # every saved flow; the newest in detail
      phf diagnose runs/phf-embedded-seed0 --energy transition --plot layers.png --csv layers.csv
      phf diagnose runs/opsd-embedded-seed0 runs/phf-embedded-seed0 --plot both.svg
      phf diagnose runs/phf-embedded-seed0 --panel shares --plot shares.pdf
      phf diagnose runs/phf-embedded-seed0/flows/step-000050.safetensors --json
      phf collect Qwen/Qwen3-1.7B -o flow.safetensors && phf diagnose flow.safetensors
    """
    kind = one_of("--energy", energy, ENERGIES)
    if panel is not None and plot is None:
        raise UserError("--panel chooses what --plot draws: give --plot FILE")
    from phfcli.core.analysis.diagnose import by_run, diagnose_saved

    reports = diagnose_saved(flows, kind, _numbers(steps), parts)
    if plot is not None:
        from phfcli.core.reporting.figures import draw_layers

        draw_layers(reports, plot, panel)
    if csv is not None:
        from phfcli.core.reporting.tables import layer_records, write_records

        write_records(csv, layer_records(reports))
    if json_:
        print_result(reports[-1].as_json() | {"steps": [report.as_json() for report in reports]})
        return
    out = result_console()
    for run in by_run(reports):
        if run[-1].run:
            say(out, run[-1].run)
        show_report(out, run[-1])
        show_state_cosine(out, run[-1])
        if len(run) > 1:
            show_steps(out, run)
        if not quiet:
            explain(out, run[-1])
    if not quiet:
        for what, path in (("picture", plot), ("csv", csv)):
            if path is not None:
                say(out, f"{what:<11}{path}")


def _numbers(text: str) -> list[int]:
    parts = [part for part in text.split(",") if part]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--steps {text}: expected numbers such as 50,100")
    return [int(part) for part in parts]


def show_report(out: "Console", report: "LayerReport") -> None:
    """Prints the newest step, a row for each layer."""
    step = "" if report.step is None else f"step {report.step}, "
    top = max(report.share)
    measures = report.measures
    rows = []
    for index, (layer, value, share) in enumerate(zip(report.layers, report.energies, report.share, strict=True)):
        values = [_number(measures[name][index], form) for name, form in _COLUMNS.values()]
        bar = "█" * round(_BAR * share / top)
        lens = [] if report.lens_entropy is None else [f"{report.lens_entropy[index]:.3f}"]
        rows.append((str(layer), f"{value:#.4g}", percent(share), bar, *values, *lens, _shades(report, index)))
    title = f"Layer energy at {step}{report.samples} rollouts"
    lens = [] if report.lens_entropy is None else ["lens entropy"]
    columns = ("layer", "energy", "share %", "", *_COLUMNS, *lens, "along rollout")
    print_table(out, title, columns, rows, text=("", "along rollout"), first_to_go=("", "along rollout"))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _shades(report: "LayerReport", index: int) -> str:
    """A layer's energy along the rollout as shades: darker is more energy, on one scale for the whole map."""
    top = max(value for row in report.position_map for value in row if value is not None)
    steps = len(_SHADES) - 1
    return "".join(_SHADES[round(steps * (value or 0) / top)] for value in report.position_map[index])


def show_state_cosine(out: "Console", report: "LayerReport") -> None:
    """Prints OPRD's figure 8: the cosine of the last block's states over the first and the last k tokens."""
    cosine = report.state_cosine
    rows = [(end, *(_number(row[-1], ".4f") for row in values)) for end, values in cosine.ends()]
    columns = ("k tokens", *map(str, cosine.tokens[:-1]), "all")
    print_table(out, f"Cosine of both readers' states in block {report.layers[-1]}", columns, rows, text=columns[:1])


def show_steps(out: "Console", reports: "list[LayerReport]") -> None:
    """Prints every saved step, a row each."""
    rows = []
    for report in reports:
        layer, share = report.largest
        moved = percent(report.distance(reports[0]))
        step = "-" if report.step is None else str(report.step)
        mean = sum(report.energies) / len(report.energies)
        rows.append((step, f"{mean:#.4g}", f"{report.entropy:.3f}", str(layer), percent(share), moved))
    columns = ("step", "mean energy", "entropy", "largest layer", "its share %", "share moved since the first, %")
    print_table(out, "Over the checkpoints", columns, rows, text=())


def _token_text(token: "TokenEnergy") -> str:
    """A token in quotes; one without a text of its own, such as a part of a character, by its number."""
    return repr(printable(token.text)) if token.text.strip("\ufffd") else f"token {token.token}"


def explain(out: "Console", report: "LayerReport") -> None:
    """Prints the figures below the tables: the energy's definition, the largest layer, the entropy, the tokens."""
    layer, share = report.largest
    uniform = percent(1 / len(report.share))
    parts = len(report.position_map[0])
    out.print(f"energy     {report.energy}: {_MEANING[report.energy]}")
    out.print(f"largest    layer {layer}, {percent(share)} % (uniform: {uniform} %)")
    out.print(f"entropy    {report.entropy:.3f} nats of at most {report.max_entropy:.3f}")
    out.print(f"where      most in part {report.largest_part + 1} of {parts} of the rollout")
    if report.tokens:
        tokens = (f"{_token_text(t)} {t.energy:#.3g}" for t in report.tokens[:_TOKENS])
        say(out, f"tokens     most on the way to {', '.join(tokens)}")
