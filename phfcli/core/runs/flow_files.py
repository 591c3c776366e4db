"""Hidden flows on disk: the states of both readers at the selected positions. The format: docs/flows.md.

flows/step-000100.safetensors holds, of B rollouts,
    student, teacher  [L, B, m, d]   states before the final norm, in the model's own dtype or a compact one
    positions, valid  [B, m]         positions within the completion; the valid ones are a prefix of each row
    layers            [L]            1 is the first decoder block
    ids, lengths      [N], [B, 3]    student's prompt, teacher's prompt and completion of each rollout, end to end
and, as metadata, the format's version and the text of each token at a selected position. Version 1 had neither ids nor
metadata and is read as well. A file is read one rollout at a time, so its size does not matter.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phfcli.core.errors import UserError
from phfcli.core.names import StateDtype
from phfcli.core.runs.layout import step_name
from phfcli.core.storage.tensors import check_seal, open_tensors, write_tensors

_VERSION = 2
_STATES = ("student", "teacher")
_REQUIRED = (*_STATES, "positions", "valid", "layers")
_STEP = re.compile(r"step-(\d+)")


class Rollout(NamedTuple):
    """The token ids of a rollout and of both prompts that it was read after."""

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    completion: tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """Hidden states of some rollouts; shapes as in the module's docstring."""

    student: Tensor
    teacher: Tensor
    positions: Tensor
    valid: Tensor
    layers: Tensor
    rollouts: Sequence[Rollout]
    texts: dict[int, str]  # of the tokens at selected positions


class RolloutStates(NamedTuple):
    """One rollout of a flow: both readers' states [L, m, d] at its valid positions, and the tokens there."""

    student: Tensor
    teacher: Tensor
    tokens: list[int]  # [m]; empty where they are not known


@dataclass(frozen=True)
class FlowFile:
    """What a flow file says about itself; its states are read by `rollout_states`, one rollout at a time."""

    path: Path
    layers: list[int]
    counts: list[int]  # valid positions of each rollout
    positions: Tensor
    rollouts: Sequence[Rollout] = ()  # none in files of version 1
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        match = _STEP.search(self.path.stem)
        return int(match[1]) if match else None

    def rollout_states(self) -> Iterator[RolloutStates]:
        """The rollouts that have a transition.

        The file is opened anew for each: what a mapping of it has touched would otherwise stay in memory.
        """
        for index, count in enumerate(self.counts):
            if count < 2:
                continue
            with open_tensors(self.path) as file:
                student, teacher = (file.get_slice(name)[:, index, :count] for name in _STATES)
            tokens = []
            if self.rollouts:
                tokens = [self.rollouts[index].completion[p] for p in self.positions[index, :count].tolist()]
            yield RolloutStates(student, teacher, tokens)


def rollout_states_of(flow: Flow) -> Iterator[RolloutStates]:
    """The rollouts of a flow in memory that have a transition."""
    for index, count in enumerate(flow.valid.sum(1).tolist()):
        if count > 1:
            tokens = [flow.rollouts[index].completion[p] for p in flow.positions[index, :count].tolist()]
            yield RolloutStates(flow.student[:, index, :count], flow.teacher[:, index, :count], tokens)


def save_flow(run: Path, step: int, flow: Flow, dtype: StateDtype = "model") -> Path:
    """Writes a flow beside its checkpoint, at once or not at all."""
    path = run / "flows" / f"{step_name(step)}.safetensors"
    write_flow(path, flow, dtype)
    return path


def write_flow(path: Path, flow: Flow, dtype: StateDtype = "model") -> None:
    """Writes a flow. States that float16 cannot hold are written as bfloat16."""
    wanted = {"model": flow.student.dtype, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if wanted == torch.float16 and max(s.abs().max() for s in (flow.student, flow.teacher)) > torch.finfo(wanted).max:
        wanted = torch.bfloat16
    ids = [token for rollout in flow.rollouts for part in rollout for token in part]
    tensors = {
        "student": flow.student.to(wanted),
        "teacher": flow.teacher.to(wanted),
        "positions": flow.positions.to(torch.int32),
        "valid": flow.valid,
        "layers": flow.layers.to(torch.int32),
        "ids": torch.tensor(ids, dtype=torch.int32),
        "lengths": torch.tensor([[len(part) for part in rollout] for rollout in flow.rollouts], dtype=torch.int32),
    }
    metadata = {"format": "phf-flow", "version": str(_VERSION), "texts": json.dumps(flow.texts)}
    write_tensors(path, tensors, metadata, sealed=True)


def open_flow(path: Path) -> FlowFile:
    """Reads all of a flow file but its states.

    Raises:
        UserError: for a file that is missing, damaged, of a newer format, or holds something else.
    """
    check_seal(path)
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
        _check_header(path, file, metadata)
        valid = file.get_tensor("valid")
        rollouts = []
        if "lengths" in file.keys():  # noqa: SIM118  it is no mapping
            rollouts = _rollouts(file.get_tensor("ids").tolist(), file.get_tensor("lengths").tolist())
        texts = _texts(path, metadata)
        return FlowFile(
            path,
            layers=file.get_tensor("layers").tolist(),
            counts=valid.sum(1).tolist(),
            positions=file.get_tensor("positions"),
            rollouts=rollouts,
            texts=texts,
        )


def _texts(path: Path, metadata: dict[str, str]) -> dict[int, str]:
    """The texts of tokens by their ids. Raises UserError where the header holds something else."""
    try:
        return {int(token): str(text) for token, text in json.loads(metadata.get("texts", "{}")).items()}
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a flow file: the texts of its tokens cannot be read") from None


def _check_header(path: Path, file: Any, metadata: dict[str, str]) -> None:
    missing = [name for name in _REQUIRED if name not in file.keys()]  # noqa: SIM118
    if missing:
        raise UserError(f"{path}: not a flow file: {', '.join(missing)} missing")
    version = metadata.get("version", "1")
    if version not in map(str, range(1, _VERSION + 1)):
        raise UserError(f"{path}: a flow file of version {version}; this phf reads up to {_VERSION}, so update it")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in _REQUIRED}
    L, B, m, d = shapes["student"] if len(shapes["student"]) == 4 else (0, 0, 0, 0)
    fitting = {"student": (L, B, m, d), "teacher": (L, B, m, d), "positions": (B, m), "valid": (B, m), "layers": (L,)}
    if shapes != fitting or L == 0:
        raise UserError(f"{path}: not a flow file: its shapes do not fit together: {shapes}")


def _rollouts(ids: list[int], lengths: list[list[int]]) -> list[Rollout]:
    rollouts, start = [], 0
    for row in lengths:
        parts = []
        for length in row:
            parts.append(tuple(ids[start : start + length]))
            start += length
        rollouts.append(Rollout(*parts))
    return rollouts
