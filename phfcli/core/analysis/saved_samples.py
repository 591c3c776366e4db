"""Reads the samples that phf or another tool has saved; the content of a file shows which tool it is."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phfcli.core.config import GradeConfig
from phfcli.core.errors import UserError, nearest
from phfcli.core.grading import Status
from phfcli.core.grading.answers import GOLD_FORMS, doubt
from phfcli.core.storage.files import read_json
from phfcli.core.storage.tables import Rows, read_rows

_ZSTD = 93  # the zip compression method that Python's zipfile cannot read
_LOCAL_HEADER = 30  # bytes of a zip member's header, before its name and its extra field


def read_log(path: Path) -> dict[str, Any]:
    """Reads an .eval log of inspect_ai, as its JSON log has it, without parts that grading does not need.

    Raises:
        UserError: no complete .eval log.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/"))
            header = json.loads(_member(path, archive, "header.json"))
            return {**header, "samples": [json.loads(_member(path, archive, name)) for name in names]}
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a whole .eval log of inspect_ai: {error}") from None


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != _ZSTD:
        return archive.read(name)
    import pyarrow

    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        file.seek(sum(lengths), 1)
        packed = file.read(info.compress_size)
    return bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd").read())


_INSPECT_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partial, incorrect, no answer


@dataclass(frozen=True)
class SavedText:
    """A saved completion with the gold answers of its problem.

    Attributes:
        stored: metric -> score that the tool gave; it may be the mean over the problem's samples.
        cut: whether the token limit is known to have cut off the completion.
    """

    problem: str
    number: int
    golds: tuple[str, ...]
    text: str
    stored: Mapping[str, float]
    cut: bool = False


@dataclass(frozen=True)
class SavedTexts:
    """The samples of a file, and the name of the tool that wrote it."""

    form: str
    texts: Sequence[SavedText]


def read_samples(path: Path, config: GradeConfig) -> SavedTexts:
    """Reads the samples of a file, or of an evaluation's folder.

    Raises:
        UserError: a file of an unknown form, or without a completion that has a gold answer.
    """
    path = path / "samples.jsonl" if path.is_dir() else path
    form, saved = _read(path, config)
    texts = [text for text in saved if any(text.golds)]
    if not texts:
        raise UserError(f"{path}: read as {form}, and no completion has a gold answer beside it")
    return SavedTexts(form, texts)


def _read(path: Path, config: GradeConfig) -> tuple[str, Iterator[SavedText]]:
    if path.suffix in (".json", ".eval"):
        log = read_log(path) if path.suffix == ".eval" else read_json(path)
        if not isinstance(log, dict) or not {"eval", "samples"} <= log.keys():
            raise UserError(
                f"{path}: no log of inspect_ai, which has eval and samples; of other tools give the samples"
            )
        return "inspect_ai", _checked(path, _inspect(log["samples"] or (), config))
    rows = read_rows(path)
    for form, (needed, read) in _FORMS.items():
        if needed <= set(rows.columns):
            return form, _checked(path, read(rows, config))
    _check_columns(rows, path, config)
    return "a table of completions", _checked(path, _table(rows, config))


def _checked(path: Path, texts: Iterator[SavedText]) -> Iterator[SavedText]:
    """Yields the texts. Raises UserError for a file that only looks like one of the tool's."""
    try:
        yield from texts
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not in the form that was recognised: {type(error).__name__} {error}") from None


def _phf(rows: Rows, config: GradeConfig) -> Iterator[SavedText]:
    for row in rows:
        cut = row["status"] == Status.truncated or row.get("cut", False)
        golds = tuple((row.get("gold") or "").split(" or "))  # how samples.jsonl writes several accepted answers
        stored = {"phf": float(row["status"] == Status.correct)}
        yield SavedText(row["problem"], row["sample"], _golds(golds, config), row["text"], stored, cut)


def _lm_eval(rows: Rows, config: GradeConfig) -> Iterator[SavedText]:
    """Reads lm-evaluation-harness, which writes a line for each document and filter, with the same completions."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(str(row["doc_id"]), []).append(row)
    for problem, same_problem in lines.items():
        stored = {
            f"{line['filter']}/{metric}": float(line[metric]) for line in same_problem for metric in line["metrics"]
        }
        target = same_problem[0]["target"]
        golds = _golds(target if isinstance(target, list) else [target], config)
        texts = [text for drawn in same_problem[0]["resps"] for text in drawn]
        yield from (SavedText(problem, i, golds, text, stored) for i, text in enumerate(texts))


def _lighteval(rows: Rows, config: GradeConfig) -> Iterator[SavedText]:
    for place, row in enumerate(rows):
        doc, stored = row["doc"], {name: float(v) for name, v in row["metric"].items() if v is not None}
        index = doc["gold_index"]
        golds = _golds([doc["choices"][i] for i in (index if isinstance(index, list) else [index])], config)
        texts = row["model_response"]["text"]
        yield from (SavedText(str(doc.get("id") or place), i, golds, text, stored) for i, text in enumerate(texts))


def _inspect(samples: Iterable[Mapping[str, Any]], config: GradeConfig) -> Iterator[SavedText]:
    for sample in samples:
        target, output = sample["target"], sample["output"]
        golds = _golds(target if isinstance(target, list) else [target], config)
        values = {name: _value(score["value"]) for name, score in (sample.get("scores") or {}).items()}
        stored = {name: value for name, value in values.items() if value is not None}
        cut = any(choice.get("stop_reason") == "max_tokens" for choice in output["choices"])
        yield SavedText(str(sample["id"]), sample["epoch"] - 1, golds, output["completion"], stored, cut)


def _value(value: Any) -> float | None:
    """A score of inspect_ai as a number; None for a score with several parts."""
    if isinstance(value, str):
        return _INSPECT_VALUES.get(value)
    return float(value) if isinstance(value, int | float) else None


def _check_columns(rows: Rows, path: Path, config: GradeConfig) -> None:
    columns = config.columns
    for name in ("answer", "completion"):
        if (column := getattr(columns, name)) not in rows.columns:
            known = list(map(str, rows.columns))
            raise UserError(
                f"{path}: neither of phf, lm-evaluation-harness nor lighteval, and no column {column!r} among "
                f"{', '.join(known)}; set columns.{name} to the column's name ({nearest(column, known)})"
            )


def _table(rows: Rows, config: GradeConfig) -> Iterator[SavedText]:
    """Reads a table with one completion in each row."""
    columns, drawn = config.columns, dict[str, int]()
    for place, row in enumerate(rows):
        problem = str(row.get(columns.problem, place))
        number = drawn[problem] = drawn.get(problem, -1) + 1
        answer, completion = row[columns.answer], row[columns.completion]
        golds = _golds(answer if isinstance(answer, list) else [answer], config)
        yield SavedText(problem, number, golds, _text(completion), {})


def _text(cell: Any) -> str:
    """A cell as text; an empty cell is "". Raises TypeError for anything but text and numbers."""
    if not isinstance(cell, str | int | float | None):
        raise TypeError(f"{cell!r:.40} where text is wanted")
    return "" if cell is None else str(cell)


def _golds(cells: Sequence[Any], config: GradeConfig) -> tuple[str, ...]:
    """Gold answers, extracted as config.gold says, or else as each cell needs: a target may be a whole solution."""
    texts = [_text(cell).strip() for cell in cells]
    forms = [config.gold or ((why := doubt(text)) and why.form) or "as-is" for text in texts]
    return tuple(GOLD_FORMS[form](text) for form, text in zip(forms, texts, strict=True))


_FORMS: dict[str, tuple[set[str], Callable[[Rows, GradeConfig], Iterator[SavedText]]]] = {
    "phf": ({"problem", "sample", "status", "text"}, _phf),
    "lm-evaluation-harness": ({"doc_id", "target", "resps", "filter", "metrics"}, _lm_eval),
    "lighteval": ({"doc", "model_response", "metric"}, _lighteval),
}
