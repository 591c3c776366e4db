"""Tensors on disk: safetensors only, written at once, and read with one clear line for a damaged file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.errors import UserError, first_line
from phfcli.core.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file; a reader finds the old one or the new one."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Raises UserError if it is missing or damaged."""
    with _readable(path):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


def check_tensors(path: Path) -> None:
    """Raises UserError if a safetensors file is missing, or not as long as it says."""
    with _readable(path), safe_open(path, "pt"):
        pass


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged or incomplete: {first_line(error)}") from None
