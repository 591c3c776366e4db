"""Tables of figures, on the terminal and in Markdown, with medians and ranges."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_IN_A_FILE = 1000  # columns, more than any line has


@dataclass(frozen=True)
class Table:
    """What a program has found: a title, a sentence or two, and rows of text."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self) -> None:
        """On the terminal, within its width; in a file, where nothing sets a width, whole."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.columns, title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for row in self.rows:
            table.add_row(*row)
        out = Console(highlight=False, markup=False)
        if not out.is_terminal:
            out.width = _IN_A_FILE
        out.print(table)
        out.print(self.note)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n"


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median and the range of some figures."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
