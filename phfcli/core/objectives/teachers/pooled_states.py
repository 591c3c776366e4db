"""The last hidden states of whole sequences, from a vLLM server that pools (`vllm serve --runner pooling`)."""

import asyncio
import base64
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from phfcli.core.config import ModelSettings
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http.client import Answer, HttpClient, TransientError
from phfcli.core.rollouts.http.served_models import ServedModels

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
