"""Hidden flows on disk: the states of both readers at the selected positions, as they were computed.

flows/step-000100.safetensors holds
    student, teacher  [L, B, m, d]   states before the final norm, in the model's own dtype
    positions, valid  [B, m]         positions within the completion
    layers            [L]            1 is the first decoder block
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from phfcli.core.errors import UserError
from phfcli.core.resources import step_name
from phfcli.core.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class Flow:
    """Saved hidden states of some rollouts; shapes as in the module's docstring."""

    student: Tensor
    teacher: Tensor
    positions: Tensor
    valid: Tensor
    layers: Tensor


def save_flow(run: Path, step: int, flow: Flow) -> Path:
    """Writes a flow beside its checkpoint, at once or not at all."""
    path = run / "flows" / f"{step_name(step)}.safetensors"
    write_tensors(path, {name: getattr(flow, name) for name in Flow.__dataclass_fields__})
    return path


def load_flow(path: Path) -> Flow:
    """Raises UserError for a file that is missing, damaged or holds something else."""
    tensors = read_tensors(path)
    missing = [name for name in Flow.__dataclass_fields__ if name not in tensors]
    if missing:
        raise UserError(f"{path}: not a flow file: {', '.join(missing)} missing")
    return Flow(**{name: tensors[name] for name in Flow.__dataclass_fields__})
