"""Rollouts from a vLLM server over HTTP."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from phfcli.core.errors import UserError
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.engine import ImpossibleCompletionError, Serving, checked
from phfcli.core.rollouts.http_client import Adapter, HttpClient, Requests, ServedModels, TransientError
from phfcli.core.types import Completion, Request, Sampling


class _Logprobs(BaseModel):
    token_logprobs: list[Annotated[float, Field(strict=True, allow_inf_nan=True)]]


class _Choice(BaseModel):
    token_ids: list[Annotated[int, Field(strict=True)]]
    finish_reason: str | None
    logprobs: _Logprobs | None = None


class _Drawn(BaseModel):
    model: str
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]


class HttpEngine:
    """Samples from a vLLM server that serves the base model, with at most one adapter at a time."""

    name = "http"

    def __init__(self, url: str, serving: Serving) -> None:
        """Raises UserError where no server answers, or it serves another model or shorter sequences."""
        self._settings = serving.settings.http
        description = load_description(serving.settings.model)
        self._stops, self._vocabulary = sorted(description.eos_ids), description.vocabulary
        self._client = HttpClient(url, self._settings)
        self._models = ServedModels(self._client, serving)
        self._adapter: Adapter | None = None
        self._adapter_folder: Path | None = None
        self._updates = 0
        self._requests = Requests(self._client, self._settings.in_flight)
        try:
            self._check_server()
            if serving.adapter is not None:
                self._load(serving.adapter)
        except BaseException:
            self.close()
            raise

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion) as they finish.

        Log-probabilities are of the distribution that the server reports; how it was started decides which.
        """
        return self._requests.each(len(requests), lambda index: self._draw(requests[index], sampling, logprobs))

    def update(self, model: LanguageModel) -> None:
        """Loads a model's adapter into the server, which serves its base.

        The folder is kept until the next update: a server that restarts has to read it again.
        """
        if self._adapter_folder is None:
            self._adapter_folder = _new_folder(self._settings.adapter_folder)
        old, self._updates = self._adapter, self._updates + 1
        folder = self._adapter_folder / str(self._updates)
        model.network.save_pretrained(str(folder), save_embedding_layers=False)
        self._load(folder)
        self._discard(old)

    def close(self) -> None:
        """Cancels open requests and unloads a training adapter; one that is evaluated stays loaded."""
        self._discard(self._adapter)
        self._requests.close()
        if self._adapter_folder is not None:
            shutil.rmtree(self._adapter_folder, ignore_errors=True)

    def _check_server(self) -> None:
        """Asks the server for its models, once: at the start a silent server more likely means a wrong address."""
        try:
            self._requests.wait(self._models.names())
        except TransientError as fault:
            advice = "docs/serving.md shows how to start one"
            raise self._client.refusal(f"no vLLM server answers there ({fault}); {advice}") from None

    def _load(self, folder: Path) -> None:
        adapter = Adapter.at(folder)
        self._requests.wait(self._client.persist(partial(self._models.load, adapter)))
        self._adapter = adapter

    def _discard(self, adapter: Adapter | None) -> None:
        if adapter is not None and adapter.folder.parent == self._adapter_folder:
            self._requests.wait(self._models.drop(adapter))
            shutil.rmtree(adapter.folder)

    async def _draw(self, request: Request, sampling: Sampling, logprobs: bool) -> Completion:
        adapter = self._adapter
        name = adapter.name if adapter else self._models.base
        fields = {"model": name, "prompt": request.prompt_ids, "seed": request.seed}
        answer = await self._client.request("/v1/completions", fields | self._options(sampling, logprobs))
        if answer.status == 404 and adapter is not None:
            await self._models.load(adapter)
            raise TransientError("the server had lost the adapter")
        drawn = self._client.parse(_Drawn, answer)
        if drawn.model != name:
            raise self._client.refusal(f"it was asked for {name} and has answered with {drawn.model[:100]!r}")
        return self._completion(drawn.choices[0], sampling, logprobs)

    def _options(self, sampling: Sampling, logprobs: bool) -> dict[str, Any]:
        """Every sampling field: a server may fill in an absent one from the model's generation config."""
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_new_tokens,
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stop_token_ids": self._stops,
            "logprobs": 0 if logprobs else None,  # 0: of the sampled token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # saves the server decoding each token
            "add_special_tokens": False,
            "stream": False,
        }

    def _completion(self, choice: _Choice, sampling: Sampling, logprobs: bool) -> Completion:
        """The completion of a choice.

        Raises:
            TransientError: where the server has broken it off.
            UserError: where the server has cut it by rules of its own, or returns no log-probabilities.
        """
        ids = choice.token_ids
        scores = choice.logprobs.token_logprobs if logprobs and choice.logprobs else []
        if logprobs and choice.logprobs is None:
            raise self._client.refusal("it returns no log-probabilities")
        if choice.finish_reason == "stop" and ids and ids[-1] in self._stops:
            return self._checked(Completion(tuple(ids), tuple(scores), finish="stop"), sampling, logprobs)
        if choice.finish_reason == "length" and len(ids) >= sampling.max_new_tokens:
            return self._checked(Completion(tuple(ids), tuple(scores), finish="length"), sampling, logprobs)
        if choice.finish_reason not in ("stop", "length"):
            raise TransientError(f"a completion was broken off: {choice.finish_reason}")
        raise self._client.refusal(
            "it ends completions by rules of its own; start it as `vllm serve --generation-config vllm`"
        )

    def _checked(self, completion: Completion, sampling: Sampling, logprobs: bool) -> Completion:
        try:
            return checked(completion, sampling, self._vocabulary, self._stops, logprobs)
        except ImpossibleCompletionError as error:
            raise self._client.refusal(f"it has answered with {error}; does it serve the same model?") from None


def _new_folder(parent: str | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="phf-", dir=parent)).resolve()
    except OSError as error:
        raise UserError(f"http.adapter_folder: {parent}: {error.strerror}") from None
