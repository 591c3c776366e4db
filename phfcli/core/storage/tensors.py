"""Tensors on disk: safetensors only, written at once, and read with one clear line for a damaged file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.errors import UserError, first_line
from phfcli.core.storage.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file; a reader finds the old one or the new one."""
    on_cpu = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, None if metadata is None else dict(metadata))


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
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or incomplete: {first_line(error)}") from None
