"""The bridge between a student's and a teacher's states: two frozen projectors, and their file.

BRIDGE.safetensors holds
    student.weight [K, r, d], student.mean [K, d]         of the student's blocks `layers` [K], 1 is the first
    teacher.weight [K, r, d'], teacher.mean [K, d']       of the teacher's blocks that lie as deep
of states as the head reads them where the block is the model's last, after its final norm; and, in its header, between
which two models it was fitted, on what data, and how well it fits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phfcli.core.errors import UserError
from phfcli.core.losses.hidden_states.projectors import Projector
from phfcli.core.storage.tensors import open_tensors, read_tensors, write_tensors

_ABOUT = "phfcli"  # the key in the header
_NAMES = ("layers", "student.weight", "student.mean", "teacher.weight", "teacher.mean")


@dataclass(frozen=True)
class Bridge:
    """Two projectors to a common space of rank r; neither trains."""

    layers: tuple[int, ...]
    student: Projector
    teacher: Projector
    about: Mapping[str, Any]
    path: Path | None = None  # where it was read from

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both states [K, B, m, .] in the common space, [K, B, m, r]."""
        return self.student(student), self.teacher(teacher)


def save_bridge(path: Path, bridge: Bridge) -> None:
    """Writes the file at once or not at all."""
    tensors = {
        "layers": torch.tensor(bridge.layers),
        "student.weight": bridge.student.weight,
        "student.mean": bridge.student.mean,
        "teacher.weight": bridge.teacher.weight,
        "teacher.mean": bridge.teacher.mean,
    }
    write_tensors(path, tensors, {_ABOUT: json.dumps(dict(bridge.about))})


def load_bridge(path: Path) -> Bridge:
    """Raises UserError for a file that is missing, damaged or holds something else."""
    tensors, about = read_tensors(path), _read_about(path)
    if any(name not in tensors for name in _NAMES) or not isinstance(about, dict):
        raise UserError(f"{path}: not a bridge; make one with `phf bridge fit`")
    layers, *parts = (tensors[name] for name in _NAMES)
    return Bridge(tuple(layers.tolist()), Projector(*parts[:2]), Projector(*parts[2:]), about, path)


def _read_about(path: Path) -> Any:
    with open_tensors(path) as file:
        header = file.metadata() or {}
    try:
        return json.loads(header.get(_ABOUT, "null"))
    except json.JSONDecodeError:
        return None
