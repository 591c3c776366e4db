"""Completions from any server with /v1/chat/completions: SGLang, TGI, llama.cpp, Ollama, vLLM, hosted models.

Such a server takes messages and gives text. Its chat template, its precision and what it makes of a seed are its own,
so none of them is known. The tokens of a request and of a completion stand for characters here (`served_model`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from phfcli.core.models.description import ModelDescription
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http_client import Answer, HttpClient, Requests, TransientError
from phfcli.core.types import Completion, Request, Sampling

_PATH = "/v1/chat/completions"
_WANTED = "a server with chat completions"
_MAY_BE_LEFT_OUT = ("seed", "top_k")  # of fields that a server does not take


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None  # the thinking, where a server takes it apart
    reasoning: str | None = None  # the same by another name


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Drawn(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def served_model(name: str) -> ModelDescription:
    """A model of which only its name on a server is known.

    Its tokens are bytes of UTF-8, and its chat template gives the message itself, so token ids stand for the text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    end = "<|end|>"
    plain = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate([*alphabet, end])}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=end, chat_template="{{ messages[0]['content'] }}", split_special_tokens=True
    )
    config = PreTrainedConfig.from_dict({"vocab_size": len(alphabet) + 1})
    return ModelDescription(name, config, tokenizer, frozenset({len(alphabet)}))


class ChatEngine:
    """Samples from a server with chat completions. A fault that may pass is tried again, as by `HttpEngine`."""

    name = "chat"

    def __init__(self, url: str, serving: Serving) -> None:
        """Raises UserError for an invalid URL."""
        settings = serving.settings.http
        self._model = served_model(serving.settings.model)
        self._client = HttpClient(url, settings)
        self._requests = Requests(self._client, settings.in_flight)
        self._left_out: set[str] = set()  # fields that the server does not take
        self._limit = "max_tokens"

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion) as they finish, without log-probabilities."""
        return self._requests.each(len(requests), lambda index: self._draw(requests[index], sampling))

    def close(self) -> None:
        """Cancels open requests."""
        self._requests.close()

    async def _draw(self, request: Request, sampling: Sampling) -> Completion:
        content = self._model.text(request.prompt_ids)
        fields = {
            "model": self._model.name,
            "messages": [{"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            self._limit: sampling.max_new_tokens,
            "seed": request.seed % 2**31,
            "stream": False,
        }
        sent = {name: value for name, value in fields.items() if name not in self._left_out}
        answer = await self._client.request(_PATH, sent)
        if self._adapts(answer, sent):
            raise TransientError(answer.message)
        return self._completion(self._client.parse(_Drawn, answer, _WANTED))

    def _adapts(self, answer: Answer, sent: Mapping[str, Any]) -> bool:
        """Whether the server refuses a field by name that can be left out, or named as newer servers name it."""
        if answer.status not in (400, 422):
            return False
        if "max_completion_tokens" in answer.message and "max_tokens" in sent:
            self._limit = "max_completion_tokens"
            return True
        refused = {name for name in _MAY_BE_LEFT_OUT if name in answer.message and name in sent}
        self._left_out |= refused
        return bool(refused)

    def _completion(self, drawn: _Drawn) -> Completion:
        choice = drawn.choices[0]
        thinking = choice.message.reasoning_content or choice.message.reasoning
        text = (f"<think>\n{thinking}\n</think>\n\n" if thinking else "") + (choice.message.content or "")
        ids = self._model.tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = choice.finish_reason == "length"
        tokens = drawn.usage.completion_tokens if drawn.usage else None
        ending = () if cut else (min(self._model.eos_ids),)
        return Completion((*ids, *ending), (), "length" if cut else "stop", served_tokens=tokens or 0)
