"""phf doctor."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phfcli.commands.options import AsJson, Quiet, file_option
from phfcli.commands.output import broken, log_console, print_result, result_console, say, warn
from phfcli.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phfcli.core.doctor.machine import MachineCheck

_PART = 23  # characters of the column of parts
_STATE = 8  # characters of the column of states
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}


def doctor(
    model: Annotated[
        str | None, typer.Option(metavar="ID|DIR", help="Also measure memory and time of a step on this model.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Also make a step in N processes (one for each GPU).")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="vllm: fail where it is not there. transformers: start no vLLM.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only what is installed, and a step on each device.")] = False,
    output: Annotated[Path, file_option("Where the findings go as JSON.")] = Path("doctor.json"),
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prove this machine: versions, devices, disk and hub, then real steps, a kill and resume, and vLLM.

    Each line is ok, a warning or failed, with what to do. The findings also go to doctor.json, to attach to a bug
    report. Nothing else is left behind. Exit code 0 also with warnings, 1 if something failed.

    \b
    Examples:
      phf doctor --quick
      phf doctor --processes 8 --engine vllm
      phf doctor --model Qwen/Qwen3-4B --json
    """
    if engine not in (None, "vllm", "transformers"):
        raise UserError(f"--engine: {engine!r} is unknown; choose from transformers, vllm")
    for option, given in {"--model": model, "--processes": processes, "--engine": engine}.items():
        if quick and given is not None:
            raise UserError(f"{option}: --quick leaves this check out; leave one of the two out")
    from phfcli.core.doctor.steps import examine

    if model is not None:
        # imported only here: torch then makes a folder in /tmp
        from phfcli.core.models.description import load_config

        load_config(model)  # refuses a model that is not there before minutes of other checks
    findings: list[MachineCheck] = []
    unwritten = None
    log = log_console(quiet or json_)
    with (
        closing(examine(model, processes, engine, quick)) as examined,
        log.status("checking the machine") as status,
    ):
        for finding in examined:
            findings.append(finding)
            unwritten = _save(findings, output)  # after each one: whoever stops the command has the findings so far
            status.update(f"checked {finding.part}")
            if not json_:
                _show(finding)
    result = _report(findings)
    if json_:
        print_result(result)
    elif unwritten is None:
        say(result_console(), f"{'report':<{_PART}} {output}")
    if unwritten is not None:
        warn(f"--output {output}: {unwritten}; the findings are not on disk")
    if unwritten is not None or not result["ok"]:
        raise typer.Exit(1)


def _show(finding: "MachineCheck") -> None:
    from rich.markup import escape

    from phfcli.core.errors import printable

    out = result_console()
    mark = _MARKS[finding.state] + " " * (_STATE - len(finding.state))
    indent = " " * (_PART + 1 + _STATE)
    text = broken(out, indent + printable(finding.found)).removeprefix(indent)
    out.print(f"{escape(finding.part):<{_PART}} {mark}{escape(text)}", soft_wrap=True)
    if finding.fix:
        say(out, indent + printable(finding.fix))


def _report(findings: "Sequence[MachineCheck]") -> dict[str, Any]:
    from phfcli.core.storage.files import as_json

    bad = any(finding.state == "failed" for finding in findings)
    return {"ok": not bad, "findings": [as_json(asdict(finding)) for finding in findings]}


def _save(findings: "Sequence[MachineCheck]", output: Path) -> str | None:
    """Writes the findings so far; returns why it could not (None: it could), since a full disk is a finding too."""
    from phfcli.core.storage.files import write_json

    try:
        write_json(output, _report(findings))
    except OSError as error:
        return error.strerror or str(error)
    return None
