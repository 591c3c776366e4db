"""Reads the rows of a data set from a local jsonl, csv or parquet file or from the hub; writes parquet."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from phfcli.core.errors import UnreachableError, UserError, first_line
from phfcli.core.storage.files import MOST_BYTES, check_size, open_regular, read_whole, replacing

_PATIENCE_S = 5.0


@cache
def hub_answers() -> bool:
    """Whether the hub answers; if not, its libraries are set to use only their caches.

    Call it before anything is loaded by a hub id. HF_HUB_OFFLINE, HF_ENDPOINT and proxies are respected.
    """
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE_S)
    except Exception:  # the class of the error depends on the client's HTTP library
        import datasets

        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
        return False
    return True


Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".csv", ".parquet")
_BATCH = 1000  # rows that are converted to Python objects at once


class Rows(Protocol):
    """The rows of a data set, and the names of its columns."""

    @property
    def columns(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def __iter__(self) -> Iterator[Row]: ...

    def place(self, index: int) -> str:
        """How a message names a row: its line or its number."""
        ...


@dataclass(frozen=True)
class ListedRows:
    """Rows in memory; `lines` are their line numbers in a jsonl file."""

    rows: Sequence[Row]
    columns: Sequence[str]
    lines: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def place(self, index: int) -> str:
        return f"line {self.lines[index]}" if self.lines else f"row {index + 1}"


@dataclass(frozen=True)
class ArrowRows:
    """Rows of an Arrow table in a file that is mapped into memory."""

    table: Any

    @property
    def columns(self) -> Sequence[str]:
        return list(self.table.column_names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Row:
        [row] = self.table.slice(index, 1).to_pylist()
        return dict(row)

    def __iter__(self) -> Iterator[Row]:
        for batch in self.table.to_batches(max_chunksize=_BATCH):
            yield from batch.to_pylist()

    def place(self, index: int) -> str:
        return f"row {index + 1}"


def looks_like_file(name: str) -> bool:
    """Whether a data set's name is a path rather than a hub id."""
    return Path(name).exists() or name.endswith(SUFFIXES) or name.startswith((".", "/")) or name.count("/") > 1


def read_rows(path: Path) -> Rows:
    """The rows of a file. Raises UserError for a file that cannot be read, or that holds no rows."""
    readers: dict[str, Callable[[Path], Rows]] = {
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    rows = readers[path.suffix](path)
    if not len(rows):
        raise UserError(f"{path}: the file holds no rows")
    return rows


def read_hub(name: str, split: str, config: str | None = None, revision: str | None = None) -> Rows:
    """The rows of a hub data set. Raises UserError where it cannot be loaded."""
    answers = hub_answers()
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:  # the hub client fails with dozens of classes of errors
        if not answers and not Path(name).exists():
            raise UnreachableError(f"{name}: no such file, and the hub cannot be reached for it") from None
        raise UserError(f"{name}: cannot be loaded from the hub: {first_line(error)}") from None
    rows = ArrowRows(loaded.data.table)
    if not len(rows):
        raise UserError(f"{name}: the split {split!r} holds no rows")
    return rows


def split_hub_name(name: str) -> tuple[str, str | None, str]:
    """The hub id, configuration and split of HUB, HUB:SPLIT or HUB:CONFIG:SPLIT; the split is "train" if not given.

    Raises:
        UserError: for more parts than these.
    """
    hub, *parts = name.split(":")
    if len(parts) > 2 or not hub:
        raise UserError(f"data: {name}: expected HUB, HUB:SPLIT or HUB:CONFIG:SPLIT")
    config = parts[0] if len(parts) == 2 else None
    return hub, config or None, (parts[-1] if parts else "") or "train"


def write_parquet(path: Path, rows: Iterable[Row], kinds: Mapping[str, str]) -> None:
    """Replaces a parquet file.

    kinds: Arrow's name of each column's type, or "list<string>", in the order of the columns. A value that a row
        lacks is null.
    """
    import pyarrow
    from pyarrow.parquet import write_table

    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        [(name, texts if kind == "list<string>" else pyarrow.type_for_alias(kind)) for name, kind in kinds.items()]
    )
    whole = [{name: writable(row.get(name)) for name in kinds} for row in rows]
    with replacing(path) as temporary:
        write_table(pyarrow.Table.from_pylist(whole, schema), temporary, compression="zstd")


def writable(value: Any) -> Any:
    """Text without lone surrogates, which UTF-8 cannot encode; any other value as it is."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _read_jsonl(path: Path) -> Rows:
    """Reads JSON lines. Only a line feed ends a line: other line ends may stand inside a string."""
    rows, lines, columns = [], [], dict[str, None]()
    with open_regular(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size)
        for number, raw in enumerate(file, start=1):
            line = _decoded(path, raw)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # no JSON, a number of thousands of digits, endless nesting
                reason = getattr(error, "msg", None) or first_line(error).partition(";")[0]
                raise UserError(f"{path} line {number}: not JSON: {reason}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number}: expected an object with named fields")
            rows.append(row)
            lines.append(number)
            columns.update(dict.fromkeys(row))
    return ListedRows(rows, list(columns), lines)


def _read_csv(path: Path) -> Rows:
    """Reads a table whose rows all have a cell for each column; cells stay text: 073 must not become a number."""
    csv.field_size_limit(MOST_BYTES)  # a completion is longer than the module's own limit
    reader = csv.reader(io.StringIO(_decoded(path, read_whole(path)), newline=""), strict=True)
    columns: list[str] = []
    rows: list[Row] = []
    before = 0  # lines
    try:
        for cells in reader:
            where, before = f"{path} line {before + 1}", reader.line_num
            if not cells:
                continue
            if not columns:
                columns = cells
                if twice := [name for name in columns if columns.count(name) > 1]:
                    raise UserError(f"{where}: two columns are named {twice[0]!r}; give each its own name")
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{where}: {len(cells)} cells where the header names {len(columns)} columns; a comma, a quotation "
                    "mark or a line break within a cell needs quotation marks around the cell"
                )
            rows.append(dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path} line {before + 1}: not csv: {error}") from None
    if not columns:
        raise UserError(f"{path}: not a csv file: it has no header")
    return ListedRows(rows, columns)


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with open_regular(path):
        pass
    try:
        file, parts, size = ParquetFile(path, memory_map=True), [], 0
        if twice := [name for name in file.schema_arrow.names if file.schema_arrow.names.count(name) > 1]:
            raise UserError(f"{path}: two columns are named {twice[0]!r}; give each its own name")
        for part in file.iter_batches(_BATCH):
            plain = (c.dictionary_decode() if pyarrow.types.is_dictionary(c.type) else c for c in part.columns)
            size += sum(column.nbytes for column in plain)
            check_size(path, size)
            parts.append(part)
        return ArrowRows(pyarrow.Table.from_batches(parts, file.schema_arrow).combine_chunks())
    except (ArrowException, ValueError, OSError) as error:
        raise UserError(f"{path}: not a parquet file: {first_line(error)}") from None


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
