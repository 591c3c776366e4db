"""Sends requests to a server that may be away for a while: faults that may pass are retried, mistakes are not."""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from phfcli.core.errors import FaultError, UserError, first_line

T = TypeVar("T")
Parsed = TypeVar("Parsed", bound=BaseModel)

_CONNECT_S = 10.0
_FIRST_PAUSE_S = 0.5
_PAUSES = 20  # of the longest kind within the patience
_LARGEST_ANSWER = 64 << 20  # bytes; 40,000 tokens with their log-probabilities take 6 MiB
_LONGEST_MESSAGE = 300
_KEY = "VLLM_API_KEY"
_WANTED = "a vLLM server that returns token ids (0.10.2 or later)"


class TransientError(Exception):
    """A fault that may pass, so that the request is worth another try.

    waited: for how many seconds the server has kept silent when that is noticed.
    """

    def __init__(self, message: str, waited: float = 0.0) -> None:
        super().__init__(message)
        self.waited = waited


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def message(self) -> str:
        """What the server has to say about an error: one short line, whatever it sends."""
        try:
            tree = json.loads(self.body)
        except (ValueError, RecursionError):
            tree = None
        tree = tree if isinstance(tree, dict) else {}
        error = tree.get("error", tree.get("detail"))
        text = error.get("message") if isinstance(error, dict) else error
        line = "".join(c if c.isprintable() else " " for c in str(text or "")[: 4 * _LONGEST_MESSAGE])
        line = without_key(line)[:_LONGEST_MESSAGE].strip()
        return f"status {self.status}: {line}" if line else f"status {self.status}"


class Patience:
    """How long a server may fail without any success in between.

    The clock starts with a fault. One after a quiet time, in which whoever tried again had found the server there,
    starts it anew: completions can take longer than the patience.
    """

    def __init__(self, limit_s: float, quiet_s: float) -> None:
        self._limit, self._quiet = limit_s, quiet_s
        self._start = self._last = self._success = -float("inf")

    def succeeded(self) -> None:
        self._success = time.monotonic()

    def ends_with(self, fault: TransientError) -> bool:
        """Takes note of a fault; says whether it is one too many."""
        now = time.monotonic()
        began = max(now - fault.waited, self._success)
        if self._start < self._success or began - self._last > self._quiet:
            self._start = began
        self._last = now
        return now - self._start > self._limit


class HttpClient:
    """Any number of requests at once, all from one event loop.

    where: the server without a password or a path, for messages; setting: what has named it, for messages as well.
    """

    def __init__(self, url: str, patience_s: float, timeout_s: float, setting: str = "--engine") -> None:
        """Raises UserError for a URL that is none."""
        self._setting = setting
        self._url = url.rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx2.URL(self._url)
        except httpx2.InvalidURL as error:
            raise UserError(f"{setting} {url}: not a URL: {first_line(error)}") from None
        if not parsed.host:
            raise UserError(f"{setting} {url}: expected http://HOST:PORT")
        if parsed.userinfo:
            raise UserError(
                f"{setting} {parsed.scheme}://...@{parsed.host}: a password in a URL would be kept in files; "
                f"leave it out and give the key as {_KEY}"
            )
        self.where = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._longest_pause = patience_s / _PAUSES
        self._patience = Patience(patience_s, quiet_s=2 * self._longest_pause + _CONNECT_S)
        self._options = _client_options()
        self._idle: list[httpx2.AsyncClient] = []

    async def request(self, path: str, body: dict[str, Any] | None = None, largest: int = _LARGEST_ANSWER) -> Answer:
        """One attempt: a GET, or a POST of that body. Raises TransientError if no whole answer comes back.

        largest: bytes beyond which an answer is not read.
        """
        content = None if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(self._timeout_s), self._connection() as client:
                method = "GET" if body is None else "POST"
                async with client.stream(method, self._url + path, content=content) as response:
                    return Answer(response.status_code, await self._read(response, largest))
        except TimeoutError:
            raise TransientError(f"no answer within {self._timeout_s:g} s", waited=self._timeout_s) from None
        except httpx2.TransportError as error:
            raise TransientError(without_key(first_line(error))) from None

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the attempt returns; it is made again after each TransientError.

        Raises FaultError when patience is at an end.
        """
        pause = min(_FIRST_PAUSE_S, self._longest_pause)
        while True:
            try:
                result = await attempt()
            except TransientError as fault:
                if self._patience.ends_with(fault):
                    raise FaultError(
                        f"{self.where} has failed for {self._patience_s:g} s without a success ({fault}); "
                        "what is finished is on disk; the same command goes on from there, a training with --resume"
                    ) from None
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, self._longest_pause)
            else:
                self._patience.succeeded()
                return result

    def parse(self, kind: type[Parsed], answer: Answer, wanted: str = _WANTED) -> Parsed:
        """The body of a good answer. Raises TransientError for what may pass, and UserError for what will not."""
        if answer.status == 200:
            try:
                return kind.model_validate_json(answer.body)
            except (ValidationError, RecursionError) as error:
                if _is_cut(error):
                    raise TransientError("half an answer") from None
                raise self.refusal(f"it does not answer like {wanted}") from None
        if is_transient(answer.status):
            raise TransientError(answer.message)
        if answer.status in (401, 403):
            raise self.refusal(f"it wants an API key ({answer.message}); set {_KEY}")
        if 300 <= answer.status < 400:
            raise self.refusal("it redirects to another address, which is not followed; give the server's own")
        raise self.refusal(answer.message)

    def refusal(self, message: str) -> UserError:
        """What the user has to mend about the server."""
        return UserError(f"{self._setting} {self.where}: {message}")

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx2.AsyncClient]:
        """A client that nobody else uses: many requests through one client cost twice the time, in its pool."""
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _new_client(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(**self._options)
        except (ImportError, ValueError) as error:  # a proxy of a kind that it does not know, or needs a package for
            raise UserError(f"HTTP_PROXY: the proxy cannot be used: {first_line(error)}") from None

    async def _read(self, response: httpx2.Response, largest: int) -> bytes:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > largest:
                raise self.refusal(f"an answer is longer than {largest >> 20} MiB; is that a vLLM server?")
        return bytes(body)


def is_transient(status: int) -> bool:
    """Whether an error is the server's present state and not the request's fault."""
    return status in (408, 429) or status >= 500


def api_key() -> str | None:
    """The key from the environment, without blanks around it, or None.

    Raises:
        UserError: for a key that a header cannot carry. The key itself is never shown.
    """
    key = os.environ.get(_KEY, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(f"{_KEY}: it holds blanks or characters that a header cannot carry; set the key alone")
    return key or None


def without_key(text: str) -> str:
    """A text with stars in the place of the key: a server may send back what it was sent."""
    key = os.environ.get(_KEY, "").strip()
    return text.replace(key, "***") if key else text


def _is_cut(error: Exception) -> bool:
    """Whether a body is no JSON at all, as half of an answer is; another shape would be whole."""
    return isinstance(error, ValidationError) and any(part["type"] == "json_invalid" for part in error.errors())


def _client_options() -> dict[str, Any]:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if key := api_key():
        headers["authorization"] = f"Bearer {key}"
    try:
        verify = httpx2.create_ssl_context()
    except OSError as error:
        where = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or "the system's certificates"
        raise UserError(f"SSL_CERT_FILE: {where}: cannot be read: {first_line(error)}") from None
    return {
        "headers": headers,
        "timeout": httpx2.Timeout(None, connect=_CONNECT_S),  # `request` limits the whole of it
        "verify": verify,
        "follow_redirects": False,
    }
