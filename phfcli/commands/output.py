"""The two streams of every command: results on stdout, everything else on stderr."""

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.core.errors import UserError
from phfcli.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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
    """Writes a warning as one line on stderr, also with --quiet."""
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
    """Turns off the progress bars and notices of the libraries, which would break up our own. Imports transformers."""
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
