"""Reads the samples that phf or another tool has saved; the content of a file shows which tool it is."""

import json
import lzma
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from phfcli.core.config import GradeConfig
from phfcli.core.errors import UserError, first_line, nearest
from phfcli.core.grading import Status
from phfcli.core.grading.answers import GOLD_FORMS, doubt
from phfcli.core.storage.files import check_size, open_regular, raw_lines, read_json
from phfcli.core.storage.schemas import EvaluationSettingsForm, read_form
from phfcli.core.storage.seals import sound_lines
from phfcli.core.storage.tables import Rows, read_rows

_ZSTD = 93  # the zip compression method that Python's zipfile cannot read
_LOCAL_HEADER = 30  # bytes of a zip member's header, before its name and its extra field


def read_log(path: Path) -> dict[str, Any]:
    """Reads an .eval log of inspect_ai, as its JSON log has it, without parts that grading does not need.

    Raises:
        UserError: no complete .eval log.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            check_size(path, sum(member.file_size for member in archive.infolist()))
            members = [member for member in archive.infolist() if member.filename.startswith("samples/")]
            members.sort(key=lambda member: member.filename)
            header = json.loads(_content(path, archive, archive.getinfo("header.json")))
            return {**header, "samples": [json.loads(_content(path, archive, member)) for member in members]}
    except _DAMAGES as error:
        raise UserError(f"{path}: not a whole .eval log of inspect_ai: {first_line(error)}") from None


# what zipfile and the decompressors raise for a damaged member; RuntimeError for an encrypted one
_DAMAGES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError),
    *(OSError, KeyError, ValueError, TypeError, RecursionError),
)


def _content(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, which are as many as the archive says."""
    if info.compress_type != _ZSTD:
        return archive.read(info)
    import pyarrow

    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER)
        lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        file.seek(sum(lengths), 1)
        packed = file.read(info.compress_size)
    unpacked = bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd").read(info.file_size + 1))
    if len(unpacked) != info.file_size or zlib.crc32(unpacked) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename} is damaged")
    return unpacked


_INSPECT_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partial, incorrect, no answer
_SHOWN = 3  # reasons in a note


@dataclass(frozen=True)
class SavedText:
    """A saved completion with the gold answers of its problem.

    Attributes:
        stored: metric -> score that the tool gave; it may be the mean over the problem's samples. A metric without a
            score for this sample is left out.
        cut: whether the token limit is known to have cut off the completion.
        failed: whether the tool records an error in place of a completion.
    """

    problem: str
    number: int
    golds: tuple[str, ...]
    text: str
    stored: Mapping[str, float]
    cut: bool = False
    failed: bool = False


@dataclass(frozen=True)
class SavedTexts:
    """The samples of a file.

    Attributes:
        form: the name of the tool that wrote the file.
        notes: sentences on what is left out of the file's rows and scores.
        grader: the grader of the samples; "math", or the one that phf's own settings name.
    """

    form: str
    texts: Sequence[SavedText]
    notes: Sequence[str] = ()
    grader: str = "math"


class _Unusable(Exception):  # noqa: N818 - such a row is left out, which is no fault of this program
    """A row that holds no gold answer or no text; the message says why."""


Item = tuple[str, Any]  # how a message names a row or a document, and the row or the document's lines
Reader = Callable[[Any, GradeConfig], Iterable[SavedText]]  # may raise _Unusable


def read_samples(path: Path, config: GradeConfig) -> SavedTexts:
    """Reads the samples of a file, or of an evaluation's folder.

    Raises:
        UserError: a file of an unknown form, without a completion that has a gold answer, or with two versions of one
            sample.
    """
    path = path / "samples.jsonl" if path.is_dir() else path
    try:
        form, items, read = _recognise(path, config)
    except (KeyError, TypeError, IndexError, AttributeError) as error:  # values of other types than the tool writes
        raise UserError(f"{path}: {first_line(error)}") from None
    if form == "phf" and path.suffix == ".jsonl":
        for _ in sound_lines(path, raw_lines(path)):
            pass
    texts, left_out = _usable(path, items, read, config)
    if not texts:
        reason = f": {left_out[0]}" if left_out else ""
        raise UserError(f"{path}: read as {form}, and no completion has a gold answer beside it{reason}")
    distinct = _distinct(path, texts)
    notes = [f"{len(left_out)} rows are left out: {'; '.join(left_out[:_SHOWN])}"] if left_out else []
    if repeated := len(texts) - len(distinct):
        notes.append(f"{repeated} repeated samples count once")
    if form == "phf" and any("golds" not in row and " or " in (row["gold"] or "") for _, row in items):
        notes.append("an older phf wrote several accepted answers as one text: each answer between ' or ' is accepted")
    scored, about_scores = _with_sound_scores(distinct)
    return SavedTexts(form, scored, (*notes, *about_scores), _own_grader(path) if form == "phf" else "math")


def _recognise(path: Path, config: GradeConfig) -> tuple[str, list[Item], Reader]:
    if path.suffix in (".json", ".eval"):
        log = read_log(path) if path.suffix == ".eval" else read_json(path)
        if not isinstance(log, dict) or not {"eval", "samples"} <= log.keys():
            raise UserError(
                f"{path}: no log of inspect_ai, which has eval and samples; of other tools give the samples"
            )
        samples = enumerate(_list(log["samples"] or [], "samples"), start=1)
        return "inspect_ai", [(f"sample {number}", sample) for number, sample in samples], _inspect
    rows = read_rows(path)
    items: list[Item] = [(rows.place(index), row) for index, row in enumerate(rows)]
    columns = set(rows.columns)
    if {"problem", "sample", "status", "text"} <= columns:
        return "phf", _last_lines(items), _phf
    if {"doc_id", "target", "resps", "filter", "metrics"} <= columns:
        return "lm-evaluation-harness", _documents(path, items), _lm_eval
    if {"doc", "model_response", "metric"} <= columns:
        return "lighteval", items, _lighteval()
    if {"__doc__", "__model_response__", "__metric__"} <= columns:  # up to version 0.12
        return "lighteval", [(place, {key.strip("_"): row[key] for key in row}) for place, row in items], _lighteval()
    _check_columns(rows, path, config)
    return "a table of completions", items, _table(config.columns.problem in columns)


def _usable(path: Path, items: Sequence[Item], read: Reader, config: GradeConfig) -> tuple[list[SavedText], list[str]]:
    """The samples, and why each unusable row is left out. Raises UserError for a file that only looks recognised."""
    texts: list[SavedText] = []
    left_out: list[str] = []
    for place, item in items:
        try:
            texts += read(item, config)
        except _Unusable as error:
            left_out.append(f"{place} {error}")
        except UserError as error:
            raise UserError(f"{path} {place}: {error}") from None
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: not in the form that was recognised: {type(error).__name__} {error}") from None
    return texts, left_out


def _distinct(path: Path, texts: Sequence[SavedText]) -> list[SavedText]:
    kept: dict[tuple[str, int], SavedText] = {}
    for text in texts:
        if kept.setdefault((text.problem, text.number), text) != text:
            raise UserError(
                f"{path}: sample {text.number} of problem {text.problem} occurs twice with different contents; "
                "give the samples of one run"
            )
    return list(kept.values())


def _with_sound_scores(texts: Sequence[SavedText]) -> tuple[list[SavedText], list[str]]:
    """The samples without the metrics that are no shares, and notes on those and on samples without a score."""
    metrics = dict.fromkeys(name for text in texts for name in text.stored)
    unsound = {name for name in metrics if any(not 0 <= text.stored.get(name, 0.0) <= 1 for text in texts)}
    notes = [f"the stored scores of {name} are not between 0 and 1 and are left out" for name in sorted(unsound)]
    failed = [text.problem for text in texts if text.failed]
    if failed:
        notes.append(
            f"{len(failed)} of {len(texts)} samples failed in the other tool, without a completion and a stored score: "
            + ", ".join(failed[:_SHOWN])
        )
    sound = [replace(t, stored={name: v for name, v in t.stored.items() if name not in unsound}) for t in texts]
    for name in metrics:
        missing = sum(name not in text.stored for text in sound)
        if name not in unsound and missing:
            notes.append(f"{missing} of {len(texts)} samples have no stored score of {name}")
    return sound, notes


def _own_grader(path: Path) -> str:
    """The grader that the settings of phf's evaluation name; "math" for samples without settings beside them."""
    settings = path.with_name("settings.json")
    return str(read_form(settings, EvaluationSettingsForm).get("grader", "math")) if settings.is_file() else "math"


def _last_lines(items: Sequence[Item]) -> list[Item]:
    """phf's rows; of repeated lines for a sample the last one counts, as in `phf eval`."""
    return list({(row.get("problem"), row.get("sample")): (place, row) for place, row in items}.values())


def _phf(row: Mapping[str, Any], config: GradeConfig) -> list[SavedText]:
    cut = row["status"] == Status.truncated or bool(row.get("cut", False))
    golds = row.get("golds") or (row.get("gold") or "").split(" or ")  # version 0.2 wrote no list
    stored = {"phf": float(row["status"] == Status.correct)}
    golds = map(GOLD_FORMS[config.gold], golds) if config.gold else golds
    return [SavedText(row["problem"], row["sample"], tuple(golds), row["text"], stored, cut)]


class _Names:
    """Names documents by their ids, with a number behind the id of a further document that has the same id."""

    def __init__(self) -> None:
        self._contents: dict[str, list[Any]] = {}

    def name(self, identity: str, content: Any) -> str:
        contents = self._contents.setdefault(identity, [])
        if content not in contents:
            contents.append(content)
        number = contents.index(content) + 1
        return identity if number == 1 else f"{identity} ({number})"


def _documents(path: Path, items: Sequence[Item]) -> list[Item]:
    """The documents of lm-evaluation-harness, which writes a line for each document and filter.

    A file of joined subtasks has several documents of one id; their hashes and targets differ.
    """
    names, documents = _Names(), dict[str, tuple[str, dict[str, Mapping[str, Any]]]]()
    for place, row in items:
        content = [row.get("doc_hash"), row["target"], None if row.get("doc_hash") else row.get("doc")]
        name = names.name(str(row["doc_id"]), repr(content))
        _, lines = documents.setdefault(name, (place, {}))
        if lines.setdefault(str(row["filter"]), row) != row and repr(lines[str(row["filter"])]) != repr(row):
            raise UserError(
                f"{path} {place}: document {name} occurs twice under the filter {row['filter']} with different "
                "contents; give the samples of one run"
            )
    return [(place, (name, list(lines.values()))) for name, (place, lines) in documents.items()]


def _lm_eval(document: tuple[str, Sequence[Mapping[str, Any]]], config: GradeConfig) -> list[SavedText]:
    name, lines = document
    drawn = [_list(one, "resps") for one in _list(lines[0]["resps"], "resps")]
    texts = [text for one in drawn for text in one]
    if texts and all(isinstance(text, list) for text in texts):
        raise UserError("it holds likelihoods of choices; only generated completions can be graded")
    stored = _scores({f"{line['filter']}/{m}": line[m] for line in lines for m in _list(line["metrics"], "metrics")})
    golds = _golds(lines[0]["target"], config)
    return [SavedText(name, i, golds, _text(text, "completion"), stored) for i, text in enumerate(texts)]


def _lighteval() -> Reader:
    names = _Names()

    def read(row: Mapping[str, Any], config: GradeConfig) -> list[SavedText]:
        doc, texts = row["doc"], _list(row["model_response"]["text"], "text")
        if not texts and row["model_response"].get("logprobs"):
            raise UserError("it holds likelihoods of choices; only generated completions can be graded")
        index, choices = doc["gold_index"], _list(doc["choices"], "choices")
        golds = _golds([choices[i] for i in (index if isinstance(index, list) else [index])], config)
        content = (doc.get("task_name"), doc.get("query"), golds)
        identity = str(doc["id"] if doc.get("id") not in (None, "") else doc.get("query"))
        name, stored = names.name(identity, content), _scores(row["metric"])
        return [SavedText(name, i, golds, _text(text, "completion"), stored) for i, text in enumerate(texts)]

    return read


def _inspect(sample: Mapping[str, Any], config: GradeConfig) -> list[SavedText]:
    output, failed = sample["output"], bool(sample.get("error"))
    golds = _golds(sample["target"], config)
    values = {} if failed else {name: score["value"] for name, score in (sample.get("scores") or {}).items()}
    cut = any(choice.get("stop_reason") == "max_tokens" for choice in _list(output["choices"], "choices"))
    text = _text(output["completion"], "completion")
    return [SavedText(str(sample["id"]), sample["epoch"] - 1, golds, text, _scores(values), cut, failed)]


def _scores(values: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are numbers; NaN, a null and a score with several parts are none."""
    numbers = {name: _INSPECT_VALUES.get(v) if isinstance(v, str) else v for name, v in values.items()}
    return {name: float(v) for name, v in numbers.items() if isinstance(v, int | float) and math.isfinite(v)}


def _check_columns(rows: Rows, path: Path, config: GradeConfig) -> None:
    columns = config.columns
    for name in ("answer", "completion"):
        if (column := getattr(columns, name)) not in rows.columns:
            known = list(map(str, rows.columns))
            raise UserError(
                f"{path}: neither of phf, lm-evaluation-harness nor lighteval, and no column {column!r} among "
                f"{', '.join(known)}; set columns.{name} to the column's name ({nearest(column, known)})"
            )


def _table(has_problems: bool) -> Reader:
    """Reads a table with one completion in each row; without a column of problems each row is a problem."""
    names, drawn = _Names(), Counter[str]()

    def read(row: Mapping[str, Any], config: GradeConfig) -> list[SavedText]:
        columns = config.columns
        golds = _golds(row.get(columns.answer), config)
        completion = row.get(columns.completion)
        text = "" if completion is None else _text(completion, columns.completion)
        identity = _text(row.get(columns.problem), columns.problem) if has_problems else str(drawn.total())
        if not identity.strip():
            raise _Unusable(f"has an empty {columns.problem}")
        name = names.name(identity, golds)
        drawn[name] += 1
        return [SavedText(name, drawn[name] - 1, golds, text, {})]

    return read


def _list(value: Any, what: str) -> list[Any]:
    """A list as it is. Raises TypeError for anything else: the letters of a string are no elements."""
    if not isinstance(value, list):
        raise TypeError(f"{what} is {value!r:.40} where a list is wanted")
    return value


def _text(cell: Any, what: str) -> str:
    """A cell of text or of a number as text. Raises _Unusable for anything else, such as NaN, true and null."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # tables keep integers as decimals where a cell of their column is empty
    finite = isinstance(cell, str) or (isinstance(cell, int | float | Decimal) and math.isfinite(cell))
    if isinstance(cell, bool) or not finite:
        raise _Unusable(f"has {cell!r:.40} as {what}, where text is wanted")
    return str(cell)


def _golds(target: Any, config: GradeConfig) -> tuple[str, ...]:
    """Gold answers, extracted as config.gold says, or else as each cell needs: a target may be a whole solution."""
    texts = [_text(cell, "gold answer").strip() for cell in (target if isinstance(target, list) else [target])]
    forms = [config.gold or ((why := doubt(text)) and why.form) or "as-is" for text in texts]
    golds = tuple(filter(None, (GOLD_FORMS[form](text) for form, text in zip(forms, texts, strict=True))))
    if not golds:
        raise _Unusable("has no gold answer")
    return golds
