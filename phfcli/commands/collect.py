"""phf collect."""

from pathlib import Path
from typing import Annotated

import typer

from phfcli.commands.options import AsJson, Configs, Data, Quiet, Sets, file_option, settings_given
from phfcli.commands.output import log_console, print_result, quiet_libraries, result_console, say


def collect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, run, checkpoint or adapter, or 'embedded'.")],
    output: Annotated[Path, file_option("The flow file.", "--output", "-o", endings=[".safetensors"], panel=None)],
    data: Data = None,
    rollouts: Annotated[
        Path | None, typer.Option(metavar="FLOWS", help="Read the rollouts of this flow file instead of new ones.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many new rollouts.")] = 8,
    base: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="The model under an adapter, if not the one that the adapter names."),
    ] = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Record the hidden flow of a model in a file, which `phf diagnose` reads.

    \b
    Student and teacher read the same rollouts: those of --rollouts; else those that the run saved with this checkpoint,
    unless --data names other problems; else new ones. All states are in memory until they are written.
    \b
    Examples:
      phf collect runs/opsd-embedded-seed0/checkpoints/step-000100 -o flow.safetensors
      phf collect Qwen/Qwen3-1.7B --data problems.jsonl --samples 4 -o flow.safetensors
      phf collect runs/a --rollouts runs/b/flows/step-000050.safetensors -o a-on-b.safetensors
      phf diagnose flow.safetensors
    """
    from phfcli.core.analysis.collect import build_collection
    from phfcli.core.runs.flows import write_flow

    quiet_libraries()
    collection = build_collection(model, settings_given(collect, locals()), base, rollouts, samples)
    say(log_console(quiet), f"rollouts: {collection.origin}; teacher: {collection.teacher_kind}")
    flow = collection.flow()
    write_flow(output, flow)
    if json_:
        result = {"flow": str(output), "step": flow.step, "rollouts": len(flow.rollouts), "layers": len(flow.layers)}
        print_result(result | {"origin": collection.origin, "teacher": collection.teacher_kind})
    else:
        say(result_console(), f"flow       {output}")
