"""phf verify."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Quiet
from phfcli.commands.output import print_json, print_table, quiet_libraries, result_console, say


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a training run.")],
    full: Annotated[bool, typer.Option("--full", help="Also load the base model with the newest adapter.")] = False,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a run folder: lock, forms, checksums, and whether its adapters fit the base model.

    Says of each part whether it is ok, damaged or missing, and what to do. Exit code 1 if something is not ok.

    \b
    Examples:
      phf verify runs/phf-embedded-seed0
      phf verify runs/phf-embedded-seed0 --full --json
    """
    from phfcli.core.analysis.verify import verify_run

    quiet_libraries()
    findings = verify_run(run, full)
    bad = [finding for finding in findings if finding.state not in ("ok", "in use")]
    if json_:
        print_json({"run": str(run), "ok": not bad, "findings": [asdict(finding) for finding in findings]})
    elif bad or not quiet:
        out = result_console()
        print_table(out, str(run), ("part", "state"), [(finding.part, finding.state) for finding in findings])
        for finding in bad:
            say(out, f"{finding.state:<11}{finding.reason}")
            say(out, f"{'do':<11}{finding.advice}")
    if bad:
        raise typer.Exit(1)
