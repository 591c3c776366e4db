"""phf grade."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phfcli.commands.options import AsJson, Configs, Quiet, Sets, file_option, names_of, settings_given
from phfcli.commands.output import print_result, print_table, result_console, say
from phfcli.core.errors import UserError, one_of, points, printable, with_error
from phfcli.core.names import POLICIES

if TYPE_CHECKING:
    from rich.console import Console

    from phfcli.core.analysis.regrade import Regrading

_COUNTED = ("correct", "wrong", "no_answer", "truncated", "timeout", "error", "bad_gold")
_SHOWN = 10  # samples on the terminal
_LONGEST = 30  # characters of an answer on the terminal


def grade(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Samples of an evaluation, of phf or of another tool.")],
    policies: Annotated[
        str, typer.Option(metavar="NAME[,...]", help=f"{', '.join(POLICIES)}; all by default.")
    ] = ",".join(POLICIES),
    output: Annotated[
        Path | None,
        file_option(
            "Write every sample on which the policies differ.",
            "--output",
            "-o",
            endings=[".jsonl"],
            metavar="FILE.jsonl",
        ),
    ] = None,
    config: Configs = None,
    set_: Sets = None,
    json_: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Grade saved samples again under named policies, and show where they differ: why two tools do not agree.

    \b
    Reads samples.jsonl of phf eval (or its folder), details of lighteval (.parquet), samples_*.jsonl of
    lm-evaluation-harness, logs of inspect_ai (.json, .eval), and any .jsonl, .csv or .parquet with a row a completion.
    docs/grading.md says what each policy reads and when it calls an answer right.
    \b
    Examples:
      phf grade runs/phf-embedded-seed0/evals/step-000100/embedded-n12
      phf grade details_aime24.parquet --policies phf,math-verify -o differing.jsonl
      phf grade samples_gsm8k.jsonl --json
      phf grade mine.jsonl --set columns.answer=gold --set columns.completion=output
    """
    chosen = [one_of("--policies", name, POLICIES) for name in dict.fromkeys(names_of(policies))]
    if not chosen:
        raise UserError(f"--policies: name at least one of {', '.join(POLICIES)}")
    sources = settings_given(grade, locals())
    from phfcli.core.analysis.regrade import regrade
    from phfcli.core.analysis.saved_samples import read_samples
    from phfcli.core.config import GradeConfig
    from phfcli.core.settings import resolve
    from phfcli.core.storage.files import json_lines, write_data

    settings = resolve(GradeConfig, sources)
    graded = regrade(read_samples(file, settings), chosen, settings.grader_timeout_s)
    if output is not None:
        write_data(output, json_lines(graded.differing()))
    if json_:
        print_result({"file": str(file), **graded.as_json()})
        return
    out = result_console()
    _show(out, file, graded)
    if output is not None and not quiet:
        say(out, f"samples    {output}")


def _show(out: "Console", file: Path, graded: "Regrading") -> None:
    problems = len({text.problem for text in graded.texts})
    title = f"{file} ({graded.form}): {len(graded.texts)} samples of {problems} problems, percent ± standard error"
    rows = [
        (row.name, with_error(row.average, row.stderr), *(str(row.statuses.get(status, "-")) for status in _COUNTED))
        for row in graded.rows
    ]
    counted = (name.replace("_", " ") for name in _COUNTED)
    print_table(out, title, ("policy", "score", *counted), rows, text=("policy",))
    for note in graded.notes:
        say(out, f"note       {printable(note)}")
    pairs = [(f"{b} - {a}", points(moved), str(count)) for a, b, moved, count in graded.disagreements() if count]
    if pairs:
        columns = ("pair", "points", "samples on which they differ")
        print_table(out, "policies that differ", columns, pairs, text=("pair",))
    elif len(graded.rows) > 1:
        say(out, "no two of these policies differ on a sample")
    differing = graded.differing()
    for sample in differing[:_SHOWN]:
        judged = [
            f"{name} {verdict['status']} ({_short(verdict['answer'])})" for name, verdict in sample["policies"].items()
        ]
        stored = [f"stored {name} {value:g}" for name, value in sample["stored"].items()]
        head = f"{printable(sample['problem'])}/{sample['sample']}, gold {_short(' or '.join(sample['gold']))}"
        say(out, f"{head}: {', '.join([*judged, *map(printable, stored)])}")
    if len(differing) > _SHOWN:
        more = len(differing) - _SHOWN
        say(out, f"and {more} more; --output FILE.jsonl writes them all")


def _short(text: str | None) -> str:
    shown = "-" if text is None else printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
