"""What trackers show besides numbers: tables, pictures, sentences and alarms, each by the calls of its own library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from phfcli.core.printable import markdown_lines

Cell = str | float | None
Pixels = NDArray[np.uint8]  # [height, width, 3], red, green and blue


@dataclass(frozen=True)
class TrackedTable:
    """A table whose columns hold numbers or text; None is a gap."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Findings:
    """What a run has to show at a checkpoint, under the names that trackers show it by."""

    tables: Mapping[str, TrackedTable] = field(default_factory=dict)
    pictures: Mapping[str, Pixels] = field(default_factory=dict)
    verdict: Sequence[str] = ()  # sentences


@runtime_checkable
class Pages(Protocol):
    """The part of a tracker that takes more than numbers. A tracker of others may leave it out."""

    def show(self, findings: Findings, step: int) -> None:
        """Takes what a run has to show at a checkpoint."""
        ...

    def alarm(self, name: str, sentence: str, step: int) -> None:
        """Takes an alarm of a step; each name comes once in a run."""
        ...


class TensorBoardPages:
    """Tables and sentences as Markdown in the text tab, pictures in the image tab."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def show(self, findings: Findings, step: int) -> None:
        for name, table in findings.tables.items():
            rows = [[_text(cell) for cell in row] for row in table.rows]
            self._writer.add_text(name, "\n".join(markdown_lines(table.columns, rows)), step)
        for name, picture in findings.pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.add_text("verdict", "\n\n".join(findings.verdict), step)
        self._writer.flush()

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._writer.add_text(f"alarm/{name}", sentence, step)
        self._writer.flush()


class LoggedPages:
    """For W&B and trackio, whose libraries have the same names for tables, pictures and alerts."""

    def __init__(self, library: Any, run: Any) -> None:
        self._library, self._run = library, run

    def show(self, findings: Findings, step: int) -> None:
        library = self._library
        tables = {
            name: library.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            for name, table in findings.tables.items()
        }
        pictures = {name: library.Image(picture) for name, picture in findings.pictures.items()}
        verdict = library.Table(columns=["verdict"], data=[[sentence] for sentence in findings.verdict])
        self._run.log({**tables, **pictures, "verdict": verdict}, step=step)

    def alarm(self, name: str, sentence: str, step: int) -> None:
        self._run.alert(title=f"{name} at step {step}", text=sentence)


def pages_of(name: str, opened: Any) -> Pages:
    """The pages of a tracker that comes with phf; `opened` is its library's writer or run."""
    return TensorBoardPages(opened) if name == "tensorboard" else LoggedPages(import_module(name), opened)


def _text(cell: Cell) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else "-" if cell is None else str(cell)
