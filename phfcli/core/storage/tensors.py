"""Tensors on disk: safetensors files, replaced as a whole, with a checksum; a damaged file is a UserError."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from safetensors import SafetensorError, safe_open

from phfcli.core.errors import MissingFileError, UserError, first_line
from phfcli.core.storage.files import open_regular, replacing

if TYPE_CHECKING:
    from torch import Tensor

# the seal is a checksum of the file, taken with zeros in its own place
_SEAL, _UNSEALED = "seal", "0" * 64
_OLD_SEAL = "sha256"  # in files of phf 0.1: a checksum of the tensors without the header
_PART = 1 << 20  # bytes read at once


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None, sealed: bool = False
) -> None:
    """Writes a safetensors file; a reader finds either the old or the new one.

    Sharded tensors are written by one rank, while the others call `give_parts` with theirs.

    sealed: the header carries a checksum of the file, which `check_seal` compares.
    """
    from safetensors.torch import save_file

    on_cpu = {name: whole(tensors[name].detach()).contiguous().cpu() for name in sorted(tensors)}
    header = dict(metadata or {}) | ({_SEAL: _UNSEALED} if sealed else {})
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, header or None)
        if sealed:
            _seal(temporary)


def give_parts(tensors: "Mapping[str, Tensor]") -> None:
    """Sends this rank's parts of sharded tensors to the rank that writes them."""
    for name in sorted(tensors):
        whole(tensors[name].detach())


def whole(tensor: "Tensor") -> "Tensor":
    """A whole tensor: of a sharded one (a DTensor) gathered, for which all ranks call this together."""
    gather = getattr(tensor, "full_tensor", None)  # no isinstance: importing the class takes a second
    return tensor if gather is None else gather()


def check_seal(path: Path) -> bool:
    """Whether a file is sealed. Raises UserError if the content of a sealed file has changed."""
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
    wanted = metadata.get(_SEAL) or metadata.get(_OLD_SEAL)
    if wanted is None:
        return False
    with path.open("rb") as stream:
        header = _header(stream)
        covered = header.replace(wanted.encode(), _UNSEALED.encode()) if _SEAL in metadata else b""
        if _checksum(covered, stream) != wanted:
            raise UserError(f"{path}: damaged: its content is not what was written (checksum)")
    return True


def _seal(path: Path) -> None:
    """Puts the checksum of the file into its header, in place of as many zeros."""
    with path.open("r+b") as stream:
        header = _header(stream)
        digest = _checksum(header, stream)
        stream.seek(header.index(_UNSEALED.encode()))
        stream.write(digest.encode())


def _header(stream: BinaryIO) -> bytes:
    """A safetensors file up to its first tensor: the length of its header, and the header."""
    length = stream.read(8)
    return length + stream.read(int.from_bytes(length, "little"))


def _checksum(header: bytes, stream: BinaryIO) -> str:
    """A sha256 of a header and of the rest of a file from the present position on."""
    digest = hashlib.sha256(header)
    while part := stream.read(_PART):
        digest.update(part)
    return digest.hexdigest()


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, on the CPU. Raises UserError if it is missing or damaged."""
    from safetensors.torch import load_file

    with _naming(path), open_regular(path):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


def check_tensors(path: Path) -> None:
    """Raises UserError if a safetensors file is missing, or shorter than its header says."""
    with open_tensors(path, "numpy"):
        pass


@contextmanager
def open_tensors(path: Path, framework: str = "pt") -> Iterator[Any]:
    """Opens a safetensors file to read parts of it. Raises UserError, also within, if it is missing or damaged."""
    with _naming(path):
        with open_regular(path):
            pass
        with safe_open(path, framework=framework) as file:
            yield file


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns errors of reading into a UserError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or incomplete: {first_line(error)}") from None
