"""Tensors on disk: safetensors only, written at once, and read with one clear line for a damaged file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from phfcli.core.errors import UserError, first_line
from phfcli.core.files import replacing

_ABOUT = "phfcli"  # the key of what a file says about itself


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Any = None) -> None:
    """Writes a safetensors file; a reader finds the old one or the new one.

    about: any JSON, kept in the file's header.
    """
    header = None if about is None else {_ABOUT: json.dumps(about)}
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary, metadata=header)


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


def read_about(path: Path) -> Any:
    """What a file that `read_tensors` has read says about itself; None if it says nothing."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    try:
        return json.loads(header.get(_ABOUT, "null"))
    except json.JSONDecodeError:
        return None
