"""What the commands share: their common options, and the two streams: results on stdout, all else on stderr."""

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phfcli.core.errors import UserError
from phfcli.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from phfcli.core.settings import Source

Configs = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="NAME|FILE", help="A shipped recipe or a YAML file; later ones win. Repeatable."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting by its dotted key, e.g. optim.lr=1e-5. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no logs.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw a picture: .png, .svg or .pdf.")]

_FILE_WIDTH = 120  # columns
_PICTURES = (".png", ".svg", ".pdf")


def result_console() -> "Console":
    """Where results go: stdout; a file or a pipe has room for the widest table."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """A table whose cells are text, columns of numbers to the right."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, cell in zip(columns, rows[0], strict=True):
        table.add_column(escape(printable(column)), justify="right" if cell[:1] in "+-0123456789" else "left")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    return table


def log_console(quiet: bool) -> "Console":
    """Where progress and notes go: stderr."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


def warn(message: str) -> None:
    """One line on stderr, also with --quiet: what it says will happen."""
    from rich.markup import escape

    log_console(quiet=False).print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """The machine-readable result, as the only thing on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_plot(path: Path | None) -> None:
    """Raises UserError before any work if the picture could not be written."""
    if path is not None and path.suffix not in _PICTURES:
        raise UserError(f"--plot {path}: use a name that ends in {', '.join(_PICTURES)}")


def quiet_libraries() -> None:
    """The libraries' own progress bars and notices would tear ours apart. Imports transformers."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="accelerate|peft|transformers|torch|huggingface_hub")


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def with_error(value: float | None, stderr: float | None) -> str:
    """A percentage with its standard error in points, or the error alone."""
    parts = [*([] if value is None else [percent(value)]), *([] if stderr is None else [f"± {percent(stderr)}"])]
    return " ".join(parts) or "-"


def settings_given(
    configs: list[str] | None, sets: list[str] | None, options: Sequence[tuple[str, str, Any]]
) -> "list[Source]":
    """What was typed, later ones winning: --config, then --set, then the options as (label, dotted key, value)."""
    from phfcli.core.settings import file_sources, option_source, set_sources

    typed = [option_source(label, key, value) for label, key, value in options if value is not None]
    return [*file_sources(configs or []), *set_sources(sets or []), *typed]
