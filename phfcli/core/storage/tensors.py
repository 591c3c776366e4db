"""Tensors on disk: safetensors only, written at once, and read with one clear line for a damaged file."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.errors import MissingFileError, UserError, first_line
from phfcli.core.storage.files import replacing

_SEAL, _UNSEALED = "sha256", "0" * 64
_PART = 1 << 20  # bytes read at once


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, sealed: bool = False
) -> None:
    """Writes a safetensors file; a reader finds the old one or the new one.

    sealed: its header carries a checksum of the tensors, which `check_seal` compares.
    """
    on_cpu = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    about = dict(metadata or {}) | ({_SEAL: _UNSEALED} if sealed else {})
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, about or None)
        if sealed:
            _seal(temporary)


def check_seal(path: Path) -> None:
    """Raises UserError if the tensors of a sealed file are not what was written; other files pass."""
    with open_tensors(path) as file:
        wanted = (file.metadata() or {}).get(_SEAL)
    if wanted is None:
        return
    with path.open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        if _hash_of_rest(stream) != wanted:
            raise UserError(f"{path}: damaged: its content is not what was written (checksum)")


def _seal(path: Path) -> None:
    """Puts the checksum of what follows the header into the header, in the place of as many zeros."""
    with path.open("r+b") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
        digest = _hash_of_rest(stream)
        stream.seek(8 + header.index(_UNSEALED.encode()))
        stream.write(digest.encode())


def _hash_of_rest(stream: BinaryIO) -> str:
    """A sha256 of a file from the present place on."""
    digest = hashlib.sha256()
    while part := stream.read(_PART):
        digest.update(part)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises UserError if it is missing or damaged."""
    with _telling(path):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


def check_tensors(path: Path) -> None:
    """Raises UserError if a safetensors file is missing, or not as long as it says."""
    with open_tensors(path):
        pass


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file to read parts of. Raises UserError, also while it is read, if it is missing or damaged."""
    with _telling(path), safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or incomplete: {first_line(error)}") from None
