"""Reads the rows of a data set, from a local jsonl, csv or parquet file or from the hub."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError, first_line, nearest
from phfcli.core.storage.hub import hub_answers
from phfcli.core.types import Problem

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".csv", ".parquet")


def looks_like_file(name: str) -> bool:
    """Whether a data set's name is a path rather than a hub id."""
    return Path(name).exists() or name.endswith(SUFFIXES) or name.startswith((".", "/")) or name.count("/") > 1


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, numbers and text as they stand. Raises UserError for what cannot be read, or holds none."""
    readers = dict(zip(SUFFIXES, (_read_jsonl, _read_csv, _read_parquet), strict=True))
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    rows = readers[path.suffix](path)
    if not rows:
        raise UserError(f"{path}: the file holds no rows")
    return rows


def read_hub(name: str, split: str, config: str | None = None, revision: str | None = None) -> list[Row]:
    """The rows of a hub data set. Raises UserError where the hub does not give them."""
    answers = hub_answers()
    import datasets

    try:
        return list(datasets.load_dataset(name, config, split=split, revision=revision))
    except Exception as error:  # the hub client has dozens of ways to fail, none of them ours
        if not answers:
            raise UserError(f"{name}: no such file, and the hub cannot be reached for it") from None
        raise UserError(f"{name}: cannot be loaded from the hub: {first_line(error)}") from None


def require_columns(rows: Sequence[Row], columns: Iterable[str], source: str) -> None:
    """Raises UserError, naming the first column that is missing and how to map it."""
    for column in columns:
        if column not in rows[0]:
            raise UserError(
                f"{source}: no column {column!r} among {', '.join(map(str, rows[0]))}; "
                f"map it with --set columns.NAME=COLUMN ({nearest(column, map(str, rows[0]))})"
            )


def text(value: Any, source: str, index: int, column: str) -> str:
    """A cell as text. Raises UserError for an empty one."""
    if value is None or not str(value).strip():
        raise UserError(f"{source}: row {index + 1} has an empty {column!r}")
    return str(value)


def rows_hash(problems: Iterable[Problem]) -> str:
    """A sha256 of the problems' content, which tells copies of a data set apart."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(astuple(problem), ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected an object with named fields")
        rows.append(row)
    return rows


def _read_csv(path: Path) -> list[Row]:
    # cells stay text: an answer 073 must not become a number
    return _read_frame(path, lambda pandas: pandas.read_csv(path, dtype=str, keep_default_na=False))


def _read_parquet(path: Path) -> list[Row]:
    return _read_frame(path, lambda pandas: pandas.read_parquet(path))


def _read_frame(path: Path, read: Callable[[Any], Any]) -> list[Row]:
    import pandas

    try:
        rows: list[Row] = read(pandas).to_dict("records")
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: not a {path.suffix[1:]} file: {first_line(error)}") from None
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from None
