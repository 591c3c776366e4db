"""The teachers that are another model, and the bridge between its hidden states and the student's."""

import asyncio
import base64
import json
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phfcli.core.config import ModelSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import Projector
from phfcli.core.models.architecture import pair_layers
from phfcli.core.models.blockless import load_blockless
from phfcli.core.models.description import ModelDescription, depth_of, load_description, width_of
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, ReaderInput, Sample, run_pass
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import TokenAlignment, same_tokens
from phfcli.core.models.trial import check_computation
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http_client import Answer, HttpClient, ServedModels, TransientError
from phfcli.core.storage.tensors import open_tensors, read_tensors, write_tensors
from phfcli.core.types import Problem


class AnotherModel(Teacher, Protocol):
    """A teacher that is another model. With a tokenizer of its own it reads the same text in its own tokens."""

    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription: ...

    @property
    def context(self) -> int | None:
        """The longest sequence that it can read, in the student's tokens; None where its own are others."""
        return self.description.context if self.alignment is None else None

    def prepare(self, sample: Sample, problem: Problem) -> Sample:
        return sample if self.alignment is None else self.alignment(sample, problem)

    def update(self) -> None:
        """Does nothing: this teacher does not follow the student."""
        return

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """A checkpoint keeps its name, with the settings, and not its weights."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Does nothing, because a checkpoint keeps nothing of this teacher."""
        return


def in_its_tokens(batch: Batch) -> tuple[ReaderInput, Batch]:
    """What such a teacher reads; where its tokens are others, only the states of the result are of use."""
    if batch.in_teacher_tokens is not None:
        return batch.in_teacher_tokens.student, batch.in_teacher_tokens
    assert batch.teacher is not None
    return batch.teacher, batch


T = TypeVar("T")

_PROBE = range(4)  # ids that every vocabulary has
_ROOM = 1 << 16  # bytes of an answer beside its states
_WANTED = "a vLLM server that pools each token's state"
_START = (
    "start it with --runner pooling --pooler-config "
    '\'{"task": "token_embed", "use_activation": false}\' (docs/serving.md)'
)


class _Row(BaseModel):
    data: str


class _Pooled(BaseModel):
    model: str
    data: Annotated[list[_Row], Field(min_length=1, max_length=1)]


class PooledStates:
    """A model's last hidden states, after its final norm, as its head reads them.

    context: of the longest sequence that the server takes, where it says so.
    """

    def __init__(self, url: str, settings: ModelSettings, width: int, dtype: torch.dtype) -> None:
        """Meets the server. Raises UserError where none answers, or it serves another model or no states."""
        self._settings, self._width, self._dtype = settings.http, width, dtype
        self._client = HttpClient(url, self._settings.patience_s, self._settings.timeout_s, "teacher.server")
        self._models = ServedModels(self._client, Serving(settings, len(_PROBE)))
        _run(self._meet())
        self.context = self._models.longest

    def read(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """States [T, d] of each sequence, on the CPU. Raises UserError for an answer that cannot be these."""
        return _run(self._read_all(sequences))

    async def _meet(self) -> None:
        """Asks the server for its models and for some states, once: at the start silence means a wrong address."""
        try:
            await self._models.names()
            await self._read(_PROBE)
        except TransientError as fault:
            raise self._client.refusal(f"no vLLM server answers there ({fault}); {_START}") from None
        finally:
            await self._client.close()

    async def _read_all(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        at_once = asyncio.Semaphore(self._settings.in_flight)

        async def persist(ids: Sequence[int]) -> Tensor:
            async with at_once:
                return await self._client.persist(partial(self._read, ids))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(persist(ids)) for ids in sequences]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._client.close()
        return [task.result() for task in tasks]

    async def _read(self, ids: Sequence[int]) -> Tensor:
        body = {
            "model": self._models.base,
            "input": list(ids),
            "task": "token_embed",
            "use_activation": False,
            "add_special_tokens": False,
            "encoding_format": "base64",
            "embed_dtype": str(self._dtype).removeprefix("torch."),
            "endianness": "little",
        }
        expected = len(ids) * self._width * self._dtype.itemsize
        answer = await self._client.request("/pooling", body, largest=2 * expected + _ROOM)
        return self._states(answer, len(ids), expected)

    def _states(self, answer: Answer, tokens: int, expected: int) -> Tensor:
        """[T, d]. Raises UserError for states of another number or width, or that are not finite."""
        if answer.status == 404:
            raise self._client.refusal(f"it does not pool; {_START}")
        if answer.status == 400 and "task" in answer.message:
            raise self._client.refusal(f"it pools something else ({answer.message}); {_START}")
        pooled = self._client.parse(_Pooled, answer, _WANTED)
        if pooled.model != self._models.base:
            raise self._client.refusal(
                f"it was asked for {self._models.base} and has answered with {pooled.model[:100]!r}"
            )
        try:
            numbers = base64.b64decode(pooled.data[0].data, validate=True)
        except ValueError:  # binascii.Error is one too
            raise self._client.refusal(f"it does not answer like {_WANTED}") from None
        if len(numbers) != expected:
            raise self._client.refusal(
                f"it has answered with {len(numbers)} bytes of states, where {tokens} tokens of width {self._width} "
                f"take {expected}; is that the same model, pooled token by token?"
            )
        states = torch.frombuffer(bytearray(numbers), dtype=self._dtype).view(tokens, self._width)
        if not bool(states.isfinite().all()):
            raise self._client.refusal("it has answered with states that are not finite; is that a sound server?")
        return states


def _run(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. A thread that runs a loop already, as a notebook's does, leaves it to another one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@dataclass(frozen=True)
class ServedTeacher(AnotherModel):
    """Another model: its blocks on a server, its head here."""

    readout: LanguageModel
    server: PooledStates
    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription:
        return self.readout.description

    @property
    def context(self) -> int | None:
        """The shorter one of the model's context and the server's."""
        own = super().context
        return own if own is None or self.server.context is None else min(own, self.server.context)

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """What the head reads, from the server. `layers` may be the last one, of which there is no state before the
        final norm.
        """
        reader, read = in_its_tokens(batch)
        lengths = reader.attention_mask.sum(1).tolist()
        sequences = [ids[:count].tolist() for ids, count in zip(reader.input_ids, lengths, strict=True)]
        out = pad_sequence(self.server.read(sequences), batch_first=True).to(read.lengths.device)  # [B, T, d]
        rows, offsets = read.tokens
        every = torch.arange(len(lengths), device=rows.device)[:, None]
        # an unused slot of an empty completion lies behind its sequence
        selected = (reader.prompt_lengths[:, None] + read.positions).clamp(max=out.shape[1] - 1)
        depth = depth_of(self.description.config)
        return Pass(
            hidden=out[rows, reader.prompt_lengths[rows] + offsets - 1],
            head=self.readout.output_head,
            states=out.new_zeros(0, *read.positions.shape, out.shape[-1]),
            final=out[every, selected] if layers else None,
            layers=pair_layers(layers, len(student.blocks), depth),
            depth=depth,
        )


def load_served(
    settings: ModelSettings, url: str, description: ModelDescription, alignment: TokenAlignment | None
) -> ServedTeacher:
    """The model that settings name, which the server at url computes.

    Raises:
        UserError: where the model's head cannot be read, or no server gives its states.
    """
    readout = load_blockless(settings)
    server = PooledStates(url, settings, width_of(description.config), readout.head.dtype)
    return ServedTeacher(readout, server, alignment)


@dataclass(frozen=True)
class ExternalTeacher(AnotherModel):
    """Another model, in this process."""

    model: LanguageModel
    alignment: TokenAlignment | None

    @property
    def description(self) -> ModelDescription:
        return self.model.description

    @torch.no_grad()
    def run_pass(self, student: LanguageModel, batch: Batch, layers: Sequence[int]) -> Pass:
        """Its own pass."""
        own = pair_layers(layers, len(student.blocks), len(self.model.blocks))
        reader, read = in_its_tokens(batch)
        return run_pass(self.model, reader, read, own)


def load_external(config: TrainConfig, student: ModelDescription) -> ExternalTeacher | ServedTeacher:
    """The model that config.teacher names, in the student's precision: on its device, or on config.teacher.server.

    Raises:
        UserError: where it cannot be found or read, or the server does not give what is needed of it.
    """
    assert config.teacher.model is not None
    settings = config.model_copy(update={"model": config.teacher.model})
    if config.teacher.server is not None:
        description = load_description(settings.model)
        return load_served(settings, config.teacher.server, description, _alignment(config, student, description))
    model = load_model(settings)
    check_computation(model)
    model.network.requires_grad_(False)
    return ExternalTeacher(model, _alignment(config, student, model.description))


def _alignment(config: TrainConfig, student: ModelDescription, teacher: ModelDescription) -> TokenAlignment | None:
    """From the student's tokens to the teacher's, where those are others."""
    if same_tokens(student.tokenizer, teacher.tokenizer):
        return None
    prompts = build_prompts(teacher.tokenizer, config.prompt.model_copy(update={"chat_template": None}))
    return TokenAlignment(student, teacher, prompts)


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
