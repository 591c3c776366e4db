"""Reads a .eval log of inspect_ai: a zip file of JSON whose members are compressed with zstd, which zipfile cannot."""

import json
import zipfile
from pathlib import Path
from typing import Any

from phfcli.core.errors import UserError

_ZSTD = 93
_LOCAL_HEADER = 30  # bytes of a member's own header, before its name and its extra field


def read_log(path: Path) -> dict[str, Any]:
    """The log in the form of its JSON file, as far as a grader needs it. Raises UserError for another file."""
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
