"""The two streams of every command: results on stdout, everything else on stderr."""

import json
import logging
import re
import sys
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from phfcli.core.errors import masked, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GLUE = "\N{NO-BREAK SPACE}"
_FILE_WIDTH = 120  # columns
_GAP = 3  # between two columns of a table
_LABEL = re.compile(r"\S* {2,}")  # the label in front of a line's text; broken lines are indented by its width


def result_console() -> "Console":
    """Where results go: stdout; a file or a pipe has room for the widest table."""
    from rich.console import Console

    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def print_table(
    out: "Console",
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: Collection[str],
    first_to_go: Sequence[str] = (),
) -> None:
    """Prints a table whose cells are never cut: one that is too wide is printed in parts, one below the other.

    Each part begins with the columns that identify a row.

    text: the columns of words or pictures, aligned to the left; the others hold numbers, aligned to the right.
    first_to_go: columns, such as pictures, that are left out one by one until the rest fits.
    """
    kept = list(range(len(columns)))
    widths = [max(map(_width, (column, *(row[place] for row in rows)))) + _GAP for place, column in enumerate(columns)]
    for name in first_to_go:
        if sum(widths[place] for place in kept) > out.width:
            kept.remove(columns.index(name))
    for number, places in enumerate(_parts([[row[place] for place in kept] for row in rows], widths, kept, out.width)):
        shown = [[row[place] for place in places] for row in rows]
        out.print(_table("" if number else title, [columns[place] for place in places], shown, text), crop=False)


def _parts(rows: Sequence[Sequence[str]], widths: Sequence[int], places: list[int], room: int) -> list[list[int]]:
    """The columns of each part of a table: those that identify its rows, and as many others as there is room for."""
    identifying = (count for count in range(1, len(places)) if len({tuple(row[:count]) for row in rows}) == len(rows))
    count = next(identifying, 1)
    widest = max((widths[place] for place in places[count:]), default=0)
    keys = places[: count if sum(widths[place] for place in places[:count]) + widest <= room else 1]
    parts = [list(keys)]
    for place in places[len(keys) :]:
        if len(parts[-1]) > len(keys) and sum(widths[other] for other in (*parts[-1], place)) > room:
            parts.append(list(keys))
        parts[-1].append(place)
    return parts


def _width(cell: str) -> int:
    from rich.cells import cell_len

    return cell_len(printable(cell))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[str]) -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(printable(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        cells = [row[place] for row in rows]
        width = max(map(_width, (column, *cells)))
        side: Any = "left" if column in text else "right"
        table.add_column(escape(printable(column)), justify=side, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


def say(out: "Console", text: str) -> None:
    """Prints a text as it is. A terminal gets its lines broken between words, a file or a pipe gets them whole."""
    out.print(broken(out, text), markup=False, soft_wrap=True)


def broken(out: "Console", text: str) -> str:
    """The text with its lines broken between words where they are longer than the terminal is wide.

    Words that GLUE joins stay on one line; GLUE is printed as a plain space.
    """
    lines = [GLUE.join(map(printable, line.split(GLUE))) for line in masked(text).split("\n")]
    if out.is_terminal:
        lines = [_broken(line, out.width) for line in lines]
    return "\n".join(lines).replace(GLUE, " ")


def _broken(line: str, width: int) -> str:
    """A word that is longer than the terminal, such as a path, stays whole."""
    label = _LABEL.match(line)
    indent = label.end() if label and label.end() <= width // 2 else 0
    wrapper = textwrap.TextWrapper(
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return "\n".join(wrapper.wrap(line)) or line


def log_console(quiet: bool) -> "Console":
    """Where progress and notes go: stderr."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False, emoji=False)


def warn(message: str, live: "Console | None" = None) -> None:
    """Writes a warning as one line on stderr, also with --quiet.

    live: a console that draws a live table: the table would draw over what another console writes.
    """
    from rich.markup import escape

    out = log_console(quiet=False) if live is None or live.quiet else live
    text = broken(out, f"warning: {message}").removeprefix("warning:")
    out.print(f"[yellow]warning:[/]{escape(text)}", soft_wrap=True)


JSON_VERSION = 1  # of what --json prints; docs/json.md says when it rises


def print_result(value: Mapping[str, Any]) -> None:
    """The result of a command for programs; docs/json.md names the keys of each."""
    print_json({"version": JSON_VERSION, **value})


def print_json(value: Any) -> None:
    """The machine-readable result, as the only thing on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # a lone surrogate cannot be written as UTF-8; escaped it is valid JSON
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def quiet_libraries() -> None:
    """Turns off the libraries' progress bars and notices, which would break up those of phf. Imports transformers."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="accelerate|peft|transformers|torch|huggingface_hub")
