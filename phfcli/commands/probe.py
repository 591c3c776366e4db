"""phf probe."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from phfcli.commands.options import AsJson, Configs, Data, Quiet, Seed, Sets, file_option, settings_given
from phfcli.commands.output import log_console, print_result, print_table, quiet_libraries, result_console, say, warn
from phfcli.core.names import CONTEXTS


def probe(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, run, checkpoint or adapter, or 'embedded'.")],
    data: Data = None,
    contexts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,...]|TEXT",
            help=f"{', '.join(CONTEXTS)}, or a text with {{COLUMN}}. Repeatable; by default all but the last two.",
        ),
    ] = None,
    problems: Annotated[int, typer.Option(min=2, metavar="N", help="How many problems.")] = 100,
    n: Annotated[int, typer.Option("--n", min=1, metavar="N", help="Rollouts of each problem.")] = 2,
    output: Annotated[
        Path | None,
        file_option("The page, a .html file.", "--output", "-o", endings=[".html"]),
    ] = None,
    seed: Seed = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find out before any training what the privileged context does: is there something to learn, or only a style?

    \b
    The model draws plain rollouts, and others as the teacher under each context. On its plain rollouts it is read as
    student and as teacher. The readings are of the context, divergence and clip that the settings have. They are no
    verdict: nothing measured before training was shown to tell what it gives (docs/probe.md).
    \b
    Examples:
      phf probe embedded
      phf probe Qwen/Qwen3-1.7B --problems 50 -o probe.html
      phf probe runs/phf-embedded-seed0 --contexts answer,wrong-answer --json
      phf probe embedded --data problems.jsonl --contexts "A hint: {hint}"
    """
    sources = settings_given(probe, locals())
    from phfcli.core.analysis.probe import run_probe
    from phfcli.core.analysis.probe_answers import build_experiment

    quiet_libraries()
    log = log_console(quiet)
    experiment = build_experiment(model, sources, _names(contexts), problems, n)
    for warning in experiment.warnings:
        warn(warning)
    say(log, experiment.cost_sentence())
    report = run_probe(experiment, lambda text: say(log, text))
    if output is not None:
        from phfcli.core.reporting.probe_page import write_probe

        write_probe(output, report)
    if json_:
        print_result(report.as_json())
        return
    from phfcli.core.reporting.probe_page import context_table

    out, table = result_console(), context_table(report)
    print_table(out, table.title, table.columns, table.rows, table.text)
    for sentence in report.readings:
        say(out, sentence.text)
    if output is not None and not quiet:
        say(out, f"page       {output}")
    say(out, f"next       {_what_we_would_run(report.about)}")


def _what_we_would_run(about: Mapping[str, Any]) -> str:
    """The training on the probe's model and data that we would begin with ourselves."""
    words = [f"--{name} {shlex.quote(about[name])}" for name in ("model", "data") if about[name] != "embedded"]
    return " ".join(["phf train", *words, "--config recommended"])


def _names(typed: list[str] | None) -> list[str]:
    """The contexts that are asked for; a text may hold commas of its own."""
    if typed is None:
        return list(CONTEXTS[:-2])  # the last two are what a target is made of
    parts = [[text] if "{" in text else text.split(",") for text in typed]
    return [name.strip() for part in parts for name in part if name.strip()]
