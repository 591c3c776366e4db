"""A client of a vLLM server: requests that are tried again for a time, and the models that the server has."""

import asyncio
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from phfcli.core.config import HttpSettings
from phfcli.core.errors import FaultError, UserError, first_line, masked
from phfcli.core.models.description import locate
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import adapter_rank
from phfcli.core.storage.files import folder_hash

T = TypeVar("T")
Parsed = TypeVar("Parsed", bound=BaseModel)

_CONNECT_S = 10.0
_FIRST_PAUSE_S = 0.5
_PAUSES = 20  # the longest pause between tries is this part of the patience
_LARGEST_ANSWER = 64 << 20  # bytes; 40,000 tokens with their log-probabilities take 6 MiB
_LONGEST_MESSAGE = 300
_WANTED = "a vLLM server that returns token ids (0.10.2 or later)"


class TransientError(Exception):
    """A fault that may pass, so that the request is tried again.

    waited: seconds of silence before the fault was noticed.
    """

    def __init__(self, message: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.waited = waited


@dataclass(frozen=True)
class Answer:
    """The status and body of an HTTP response."""

    status: int
    body: bytes

    @property
    def message(self) -> str:
        """The server's error message as one short line."""
        try:
            tree = json.loads(self.body)
        except (ValueError, RecursionError):
            tree = None
        tree = tree if isinstance(tree, dict) else {}
        error = tree.get("error", tree.get("detail"))
        text = error.get("message") if isinstance(error, dict) else error
        line = "".join(c if c.isprintable() else " " for c in str(text or "")[: 4 * _LONGEST_MESSAGE])
        line = masked(line)[:_LONGEST_MESSAGE].strip()
        return f"status {self.status}: {line}" if line else f"status {self.status}"


class Patience:
    """Limits how long a server may keep failing without a success in between.

    The clock starts with a fault, and starts anew with a fault after a quiet time: every request that had failed has
    then been tried again and accepted. Completions may take longer than the patience.
    """

    def __init__(self, limit_s: float, quiet_s: float) -> None:
        self._limit, self._quiet = limit_s, quiet_s
        self._start = self._last = self._success = -float("inf")

    def succeeded(self) -> None:
        self._success = time.monotonic()

    def ends_with(self, fault: TransientError) -> bool:
        """Records a fault; returns whether the server has now failed for too long."""
        now = time.monotonic()
        began = max(now - fault.waited, self._success)
        if self._start < self._success or began - self._last > self._quiet:
            self._start = began
        self._last = now
        return now - self._start > self._limit


class HttpClient:
    """Sends any number of requests at once, all from one event loop.

    Attributes:
        where: the server's address without password and path, for messages.
    """

    def __init__(self, url: str, settings: HttpSettings) -> None:
        """Raises UserError for an invalid URL, or one with a password."""
        self._url = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx2.URL(self._url)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine: {url}: not a URL: {first_line(error)}") from None
        if not parsed.host:
            raise UserError(f"engine: {url}: expected http://HOST:PORT")
        if parsed.userinfo:
            raise UserError(
                f"engine: {parsed.scheme}://...@{parsed.host}: a password in a URL would be written into files; "
                f"leave it out and put the key in {settings.key}"
            )
        self.where = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        self._key, self._patience_s, self._timeout_s = settings.key, settings.patience_s, settings.timeout_s
        self._longest_pause = self._patience_s / _PAUSES
        self._patience = Patience(self._patience_s, quiet_s=2 * self._longest_pause + _CONNECT_S)
        self._options = _client_options(self._key)
        self._idle: list[httpx2.AsyncClient] = []

    async def request(self, path: str, body: dict[str, Any] | None = None) -> Answer:
        """Sends a GET, or a POST of the body, once. Raises TransientError if no whole answer comes back."""
        content = None if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(self._timeout_s), self._connection() as client:
                method = "GET" if body is None else "POST"
                async with client.stream(method, self._url + path, content=content) as response:
                    return Answer(response.status_code, await self._read(response))
        except TimeoutError:
            raise TransientError(f"no answer within {self._timeout_s:g} s", waited=self._timeout_s) from None
        except httpx2.TransportError as error:
            raise TransientError(first_line(error)) from None

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of an attempt, which is repeated after each TransientError.

        Raises FaultError when the server has failed for longer than the patience.
        """
        pause = min(_FIRST_PAUSE_S, self._longest_pause)
        while True:
            try:
                result = await attempt()
            except TransientError as fault:
                if self._patience.ends_with(fault):
                    raise FaultError(
                        f"{self.where} has failed for {self._patience_s:g} s without a success ({fault}); "
                        "what is finished is on disk; the same evaluation, or a resumed run, goes on from there"
                    ) from None
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, self._longest_pause)
            else:
                self._patience.succeeded()
                return result

    def parse(self, kind: type[Parsed], answer: Answer, wanted: str = _WANTED) -> Parsed:
        """The parsed body of a good answer. Raises TransientError for a fault that may pass, else UserError."""
        if answer.status == 200:
            try:
                return kind.model_validate_json(answer.body)
            except (ValidationError, RecursionError) as error:
                if _is_cut(error):
                    raise TransientError("the answer is cut short") from None
                raise self.refusal(f"it does not answer like {wanted}") from None
        if is_transient(answer.status):
            raise TransientError(answer.message)
        if answer.status in (401, 403):
            raise self.refusal(f"it asks for an API key ({answer.message}); set {self._key}")
        if 300 <= answer.status < 400:
            raise self.refusal("it redirects to another address; give that address, since redirects are not followed")
        raise self.refusal(answer.message)

    def refusal(self, message: str) -> UserError:
        """An error that the user mends at the server or its address."""
        return UserError(f"engine: {self.where}: {message}")

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client that no other request uses: the connection pool of a shared client would double a request's time."""
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _new_client(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(**self._options)
        except (ImportError, ValueError) as error:  # a proxy of an unknown kind, or one that needs a package
            raise UserError(f"HTTP_PROXY: the proxy cannot be used: {first_line(error)}") from None

    async def _read(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > _LARGEST_ANSWER:
                raise self.refusal(f"an answer is longer than {_LARGEST_ANSWER >> 20} MiB; is that a vLLM server?")
        return bytes(body)


class Requests:
    """Requests of one client in a thread of their own, so that a slow consumer does not keep the server waiting."""

    def __init__(self, client: HttpClient, in_flight: int) -> None:
        self._client, self._in_flight = client, in_flight
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of one piece of work."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def each(self, count: int, draw: Callable[[int], Awaitable[T]]) -> Iterator[tuple[int, T]]:
        """Yields (index, result) as they finish, each tried again after faults that may pass."""
        finished: SimpleQueue[tuple[int, T] | None] = SimpleQueue()
        drawing = asyncio.run_coroutine_threadsafe(self._draw_all(count, draw, finished.put), self._loop)
        drawing.add_done_callback(lambda _: finished.put(None))
        try:
            while (item := finished.get()) is not None:
                yield item
            drawing.result()
        finally:
            drawing.cancel()

    def close(self) -> None:
        """Cancels open requests and ends the thread."""
        self.wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _draw_all(
        self, count: int, draw: Callable[[int], Awaitable[T]], put: Callable[[tuple[int, T]], None]
    ) -> None:
        waiting = iter(range(count))

        async def draw_next() -> None:
            for index in waiting:
                put((index, await self._client.persist(partial(draw, index))))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._in_flight, count)):
                    group.create_task(draw_next())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()


def is_transient(status: int) -> bool:
    """Whether an error status says that the server is busy or failing, not that the request is wrong."""
    return status in (408, 429) or status >= 500


def api_key(variable: str) -> str | None:
    """The key from the environment without surrounding blanks, or None.

    Raises:
        UserError: for a key that a header cannot carry. The key itself is never shown.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(f"{variable}: it holds characters that a header cannot carry; set the key alone")
    return key or None


def _is_cut(error: Exception) -> bool:
    """Whether a body is invalid JSON, as a cut answer is; an answer of another shape is valid JSON."""
    return isinstance(error, ValidationError) and any(part["type"] == "json_invalid" for part in error.errors())


def _client_options(variable: str) -> dict[str, Any]:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if key := api_key(variable):
        headers["authorization"] = f"Bearer {key}"
    try:
        verify = httpx2.create_ssl_context()
    except OSError as error:
        where = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or "the system's certificates"
        raise UserError(f"SSL_CERT_FILE: {where}: cannot be read: {first_line(error)}") from None
    return {
        "headers": headers,
        "timeout": httpx2.Timeout(None, connect=_CONNECT_S),  # `request` limits the total
        "verify": verify,
        "follow_redirects": False,
    }


_UNLOAD_S = 10.0  # how long `drop` waits for the server


class ServedModel(BaseModel):
    """A model in the server's list: an adapter has a parent, a base has none."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Listing(BaseModel):
    data: list[ServedModel]


@dataclass(frozen=True)
class Adapter:
    """A PEFT folder and its name on the server, which is a hash of the folder's path and content.

    A later evaluation then finds the same adapter loaded, and the prefix cache, which vLLM keys by that name, never
    holds blocks of other weights.
    """

    name: str
    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "Adapter":
        folder = folder.resolve()
        digest = hashlib.sha256(f"{folder}\0{folder_hash(folder)}".encode()).hexdigest()
        return cls(f"phf-{digest[:20]}", folder)


class ServedModels:
    """The models of one server.

    Attributes:
        base: the name of the base model in requests, known once `names` has run.
    """

    def __init__(self, client: HttpClient, serving: Serving) -> None:
        self.base = ""
        self._client = client
        self._wanted, self._length = serving.settings.model, serving.length
        self._loading = asyncio.Lock()

    async def names(self) -> set[str]:
        """All served names. Raises UserError if the server has another base model, or takes too short sequences."""
        served = self._client.parse(_Listing, await self._client.request("/v1/models")).data
        bases = [model for model in served if model.parent is None]
        base = next((model for model in bases if is_model(model, self._wanted)), None)
        if base is None:
            present = " and ".join(model.root or model.id for model in bases) or "no model"
            wanted = locate(self._wanted)
            raise self._client.refusal(f"it serves {present}, not {wanted}; start it with that model")
        if base.max_model_len is not None and base.max_model_len < self._length:
            raise self._client.refusal(
                f"it takes sequences of {base.max_model_len} tokens, and these reach {self._length}; "
                f"start it as `vllm serve --max-model-len {self._length}`"
            )
        self.base = base.id
        return {model.id for model in served}

    async def load(self, adapter: Adapter) -> None:
        """Loads the adapter unless the server has it. Raises UserError if the server refuses it."""
        async with self._loading:
            if adapter.name in await self.names():
                return
            body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
            answer = await self._client.request("/v1/load_lora_adapter", body)
            if answer.status == 200:
                return
            # vLLM also answers 500 to an adapter that it cannot load
            if answer.status != 500 and is_transient(answer.status):
                raise TransientError(answer.message)
            if adapter.name in await self.names():  # another process has loaded it meanwhile
                return
            raise self._client.refusal(
                f"it does not load the adapter {adapter.folder} ({answer.message}); start it where it can read that, "
                "with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, as `vllm serve --enable-lora "
                f"--max-lora-rank {adapter_rank(adapter.folder)}`"
            )

    async def drop(self, adapter: Adapter) -> None:
        """Unloads an adapter; a server that does not answer is left alone."""
        try:
            async with asyncio.timeout(_UNLOAD_S):
                await self._client.request("/v1/unload_lora_adapter", {"lora_name": adapter.name})
        except (TransientError, TimeoutError):
            pass


def is_model(served: ServedModel, wanted: str) -> bool:
    """Whether a served model is the wanted one, judged by names.

    Equal names are the same model, and two folders of this machine are the same if their paths are. Where a folder is
    on another machine, or is compared with a hub id, an equal last part of the name is enough.
    """
    where = locate(wanted)
    root = served.root or served.id
    if {served.id, root} & {wanted, where}:
        return True
    here, there = Path(where), Path(root)
    if here.is_dir() and there.is_dir():
        return here.resolve() == there.resolve()
    if not here.is_absolute() and not there.is_absolute():  # two hub ids
        return False
    return here.name == there.name
