"""phf diagnose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.common import AsJson, Plot, Quiet, check_plot, percent, plain_table, print_json, result_console
from phfcli.core.errors import UserError, nearest
from phfcli.core.names import ENERGIES, EnergyName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from phfcli.core.diagnose import LayerReport

_MEANING: dict[EnergyName, str] = {
    "loss": "(direction + geometry) / 2, eq. 8",
    "direction": "eq. 6",
    "geometry": "eq. 7",
    "transition": "squared norm of the student's transitions",
}
_BAR = 30


def diagnose(
    flows: Annotated[Path, typer.Argument(metavar="RUN|FLOWS", help="A run, or a file of saved flows.")],
    energy: Annotated[str, typer.Option(metavar="KIND", help=", ".join(ENERGIES))] = "loss",
    plot: Plot = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show which layers carried the hidden flow: each layer's share of the energy, and its entropy.

    \b
    Examples:
      phf diagnose runs/phf-embedded-seed0  # the newest saved flow
      phf diagnose runs/phf-embedded-seed0 --energy transition --plot layers.png
      phf diagnose runs/phf-embedded-seed0/flows/step-000050.safetensors --json
    """
    check_plot(plot)
    kind = next((name for name in ENERGIES if name == energy), None)
    if kind is None:
        raise UserError(f"--energy: {energy!r} is unknown; {nearest(energy, ENERGIES)}")
    from phfcli.core import diagnose as core

    reports = [core.diagnose(path, kind) for path in core.flow_files(flows)]
    if plot is not None:
        from phfcli.core.figures import draw_layers

        draw_layers(reports, plot)
    if json_:
        print_json(reports[-1].as_json() | {"steps": [report.as_json() for report in reports]})
        return
    out = result_console()
    out.print(_table(reports[-1]))
    if not quiet:
        _explain(out, reports[-1], plot)


def _table(report: "LayerReport") -> "Table":
    step = "" if report.step is None else f"step {report.step}, "
    top = max(report.share)
    rows = [
        (str(layer), f"{value:.4g}", percent(share), "█" * round(_BAR * share / top))
        for layer, value, share in zip(report.layers, report.energies, report.share, strict=True)
    ]
    title = f"Layer energy at {step}{report.samples} rollouts"
    return plain_table(title, ("layer", "energy", "share %", ""), rows)


def _explain(out: "Console", report: "LayerReport", plot: Path | None) -> None:
    layer, share = report.largest
    uniform = percent(1 / len(report.share))
    out.print(f"energy     {report.energy}: {_MEANING[report.energy]}")
    out.print(f"largest    layer {layer}, {percent(share)} % (uniform: {uniform} %)")
    out.print(f"entropy    {report.entropy:.3f} nats of at most {report.max_entropy:.3f}")
    if plot is not None:
        out.print(f"picture    {plot}", markup=False)
