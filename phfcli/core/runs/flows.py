"""Hidden flows on disk: student's and teacher's hidden states at the selected positions (docs/flows.md).

Shapes: L decoder blocks, B rollouts, m selected positions, d hidden size.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from phfcli.core.errors import UserError
from phfcli.core.runs.folder import step_name
from phfcli.core.storage.tensors import check_seal, open_tensors, write_tensors

if TYPE_CHECKING:
    from phfcli.core.models.language_model import LanguageModel
    from phfcli.core.models.passes import Sample
    from phfcli.core.objectives.teachers import Teacher

_VERSION = 3
_SEALED = 3  # files from this version on carry a checksum
_STATES = ("student", "teacher")
_REQUIRED = (*_STATES, "positions", "valid", "layers")
_FLOATS = ("F64", "F32", "F16", "BF16")
_STEP = re.compile(r"step-(\d+)")


class Rollout(NamedTuple):
    """The token ids of a rollout: the student's prompt, the teacher's prompt, and the completion."""

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    completion: tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """The hidden states of several rollouts."""

    student: Tensor  # [L, B, m, d]
    teacher: Tensor  # [L, B, m, d]
    positions: Tensor  # [B, m], offsets in the completion
    valid: Tensor  # [B, m] bool
    layers: Tensor  # [L], numbers of the decoder blocks, from 1
    rollouts: Sequence[Rollout]
    texts: dict[int, str]  # token id -> text, of the tokens at selected positions
    step: int | None = None  # the training step, where the name of the file does not say it
    lens_entropy: Tensor | None = None  # [L], nats


class RolloutStates(NamedTuple):
    """One rollout of a flow: the hidden states at its m valid positions, and the tokens there."""

    student: Tensor  # [L, m, d]
    teacher: Tensor  # [L, m, d]
    positions: list[int]  # [m], offsets in the completion
    length: int  # of the completion, in tokens
    tokens: list[int]  # [m] token ids; empty for files of version 1


@dataclass(frozen=True)
class FlowFile:
    """A flow file without its hidden states; `rollout_states` reads those, one rollout at a time."""

    path: Path
    layers: list[int]
    counts: list[int]  # valid positions of each rollout
    positions: Tensor  # [B, m]
    rollouts: Sequence[Rollout] = ()  # none in files of version 1
    texts: dict[int, str] = field(default_factory=dict)
    step: int | None = None
    lens_entropy: list[float] | None = None

    def rollout_states(self) -> Iterator[RolloutStates]:
        """Yields the hidden states of each rollout that has at least one transition.

        The file is opened anew for each rollout, because the pages of a memory map that have been read stay in memory.

        Raises:
            UserError: hidden states that are not finite.
        """
        for index, count in enumerate(self.counts):
            if count < 2:
                continue
            with open_tensors(self.path) as file:
                student, teacher = (file.get_slice(name)[:, index, :count] for name in _STATES)
            if not (student.isfinite().all() and teacher.isfinite().all()):
                raise UserError(f"{self.path}: damaged: the states of rollout {index} are not finite")
            completion = self.rollouts[index].completion if self.rollouts else ()
            yield _states_along(student, teacher, self.positions[index, :count], completion)


def _states_along(student: Tensor, teacher: Tensor, positions: Tensor, completion: Sequence[int]) -> RolloutStates:
    """One rollout's states. If the completion is not known, its last selected position counts as its end."""
    offsets = positions.tolist()
    tokens = [completion[offset] for offset in offsets] if completion else []
    return RolloutStates(student, teacher, offsets, len(completion) or offsets[-1] + 1, tokens)


def join_flows(flows: Sequence[Flow]) -> Flow:
    """Joins several flows of one model into one flow on the CPU; rows are padded to the longest."""
    missing = [max(flow.valid.shape[1] for flow in flows) - flow.valid.shape[1] for flow in flows]

    def states(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([pad(part.cpu(), (0, 0, 0, m)) for part, m in zip(parts, missing, strict=True)], dim=1)

    def rows(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([pad(part.cpu(), (0, m)) for part, m in zip(parts, missing, strict=True)])

    return Flow(
        states(flow.student for flow in flows),
        states(flow.teacher for flow in flows),
        rows(flow.positions for flow in flows),
        rows(flow.valid for flow in flows),
        flows[0].layers,
        rollouts=[rollout for flow in flows for rollout in flow.rollouts],
        texts={token: text for flow in flows for token, text in flow.texts.items()},
    )


def save_flow(run: Path, step: int, flow: Flow) -> Path:
    """Writes a flow into the run's folder flows/, atomically; returns the path."""
    path = run / "flows" / f"{step_name(step)}.safetensors"
    write_flow(path, flow)
    return path


def write_flow(path: Path, flow: Flow) -> None:
    """Writes a flow file, atomically."""
    ids = [token for rollout in flow.rollouts for part in rollout for token in part]
    tensors = {
        "student": flow.student,
        "teacher": flow.teacher,
        "positions": flow.positions.to(torch.int32),
        "valid": flow.valid,
        "layers": flow.layers.to(torch.int32),
        "ids": torch.tensor(ids, dtype=torch.int32),
        "lengths": torch.tensor([[len(part) for part in rollout] for rollout in flow.rollouts], dtype=torch.int32),
    }
    metadata = {"format": "phf-flow", "version": str(_VERSION), "texts": json.dumps(flow.texts)}
    if flow.step is not None:
        metadata["step"] = str(flow.step)
    if flow.lens_entropy is not None:
        tensors["lens_entropy"] = flow.lens_entropy
    write_tensors(path, tensors, metadata, sealed=True)


def open_flow(path: Path) -> FlowFile:
    """Reads a flow file except its hidden states.

    Raises:
        UserError: a file that is missing, damaged, of a newer format, or no flow file.
    """
    sealed = check_seal(path)
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
        _check_header(path, file, metadata, sealed)
        small = {name: file.get_tensor(name) for name in file.keys() if name not in _STATES}  # noqa: SIM118 - the file is no mapping
    rollouts = _rollouts(path, small["ids"], small["lengths"]) if {"ids", "lengths"} <= set(small) else []
    _check_positions(path, small["positions"], small["valid"], rollouts)
    _require(path, "layers", _whole(small["layers"]) and bool((small["layers"] > 0).all()))
    lens = small.get("lens_entropy")
    _require(
        path, "lens_entropy", lens is None or (lens.shape == small["layers"].shape and bool(lens.isfinite().all()))
    )
    return FlowFile(
        path,
        layers=small["layers"].tolist(),
        counts=small["valid"].sum(1).tolist(),
        positions=small["positions"],
        rollouts=rollouts,
        texts=_texts(path, metadata),
        step=_step(path, metadata),
        lens_entropy=None if lens is None else lens.tolist(),
    )


def load_flow(path: Path) -> Flow:
    """A whole flow file, with its hidden states. Raises UserError as `open_flow`."""
    about = open_flow(path)
    with open_tensors(path) as file:
        student, teacher, valid = (file.get_tensor(name) for name in (*_STATES, "valid"))
    lens = None if about.lens_entropy is None else torch.tensor(about.lens_entropy)
    layers = torch.tensor(about.layers)
    return Flow(student, teacher, about.positions, valid, layers, about.rollouts, about.texts, about.step, lens)


def _step(path: Path, metadata: dict[str, str]) -> int | None:
    """The training step of a flow file: from its header, else from its name, else None."""
    recorded = metadata.get("step", "")
    in_name = _STEP.search(path.stem)
    return int(recorded) if recorded.isdecimal() else int(in_name[1]) if in_name else None


def _texts(path: Path, metadata: dict[str, str]) -> dict[int, str]:
    """The texts of tokens by their ids. Raises UserError for a header of another form."""
    try:
        return {int(token): str(text) for token, text in json.loads(metadata.get("texts", "{}")).items()}
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a flow file: the texts of its tokens cannot be read") from None


def _check_header(path: Path, file: Any, metadata: dict[str, str], sealed: bool) -> None:
    missing = [name for name in _REQUIRED if name not in file.keys()]  # noqa: SIM118
    if missing:
        raise UserError(f"{path}: not a flow file: {', '.join(missing)} missing")
    version = metadata.get("version", "1")
    if version not in map(str, range(1, _VERSION + 1)):
        raise UserError(f"{path}: a flow file of version {version}; this phf reads up to {_VERSION}, so update it")
    if int(version) >= _SEALED and not sealed:
        raise UserError(f"{path}: damaged: its checksum is gone")
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in _REQUIRED}
    L, B, m, d = shapes["student"] if len(shapes["student"]) == 4 else (0, 0, 0, 0)
    fitting = {"student": (L, B, m, d), "teacher": (L, B, m, d), "positions": (B, m), "valid": (B, m), "layers": (L,)}
    if shapes != fitting or L == 0:
        raise UserError(f"{path}: not a flow file: its shapes do not fit together: {shapes}")
    _require(path, "states", all(file.get_slice(name).get_dtype() in _FLOATS for name in _STATES))


def _rollouts(path: Path, ids: Tensor, lengths: Tensor) -> list[Rollout]:
    """Cuts ids [N] by lengths [B, 3], whose sum is N, into the three parts of each rollout."""
    fitting = _whole(ids) and ids.dim() == 1 and bool((ids >= 0).all())
    _require(path, "ids", fitting)
    fitting = _whole(lengths) and lengths.dim() == 2 and lengths.shape[1] == 3 and bool((lengths >= 0).all())
    _require(path, "lengths", fitting and int(lengths.sum()) == len(ids))
    parts = iter(ids.split(lengths.flatten().tolist()))
    return [Rollout(*(tuple(next(parts).tolist()) for _ in range(3))) for _ in lengths]


def _check_positions(path: Path, positions: Tensor, valid: Tensor, rollouts: Sequence[Rollout]) -> None:
    """Raises UserError unless the valid positions are a prefix of each row, rise, and lie within the completion."""
    prefix = valid.dtype == torch.bool and bool((valid[:, 1:] <= valid[:, :-1]).all())
    _require(path, "valid", prefix)
    rising = _whole(positions) and bool((positions[:, 1:] > positions[:, :-1])[valid[:, 1:]].all())
    _require(path, "positions", rising and bool((positions[valid] >= 0).all()))
    _require(path, "lengths", not rollouts or len(rollouts) == len(positions))
    ends = [int(row[mask][-1]) if mask.any() else -1 for row, mask in zip(positions, valid, strict=True)]
    within = all(end < len(rollout.completion) for end, rollout in zip(ends, rollouts, strict=False))
    _require(path, "positions", within)


def _whole(numbers: Tensor) -> bool:
    return numbers.dtype in (torch.int32, torch.int64)


def _require(path: Path, name: str, fitting: bool) -> None:
    if not fitting:
        raise UserError(f"{path}: not a flow file: its {name} do not fit the rest")


@torch.no_grad()
def record_flow(model: "LanguageModel", teacher: "Teacher", samples: "Sequence[Sample]", positions: int) -> Flow:
    """Computes the flow of samples: one pass of the student and one of the teacher.

    Args:
        samples: rollouts with both prompts.
        positions: the largest number of selected positions of a rollout.
    """
    from phfcli.core.models.passes import collate, run_pass

    model.network.eval()
    layers = range(1, len(model.blocks) + 1)
    batch = collate(samples, positions, model.description.pad_id, model.device)
    privileged = teacher.run_pass(model, batch, layers).states
    student = run_pass(model, batch.student, batch, layers).states
    rollouts = [Rollout(tuple(s.student_prompt), tuple(s.teacher_prompt or ()), tuple(s.completion)) for s in samples]
    rows = torch.arange(len(samples), device=batch.positions.device)[:, None].expand_as(batch.positions)
    columns = batch.student.prompt_lengths[:, None] + batch.positions
    selected = set(batch.student.input_ids[rows, columns][batch.valid].tolist())
    texts = {token: model.description.text([token]) for token in sorted(selected)}
    return Flow(student, privileged, batch.positions, batch.valid, torch.tensor(layers), rollouts, texts)
