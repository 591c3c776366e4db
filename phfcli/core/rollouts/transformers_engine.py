"""Rollouts with transformers' own batched generation and KV cache."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from phfcli.core.models.adapters.lora import merged
from phfcli.core.models.architecture.sizes import cache_row_bytes
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.sharding import whole_blocks
from phfcli.core.types import Completion, Request, Sampling

_CPU_CACHE_BYTES = 2 << 30
_MOST_ROWS = 512
SAMPLER_BYTES = 36  # for each row and vocabulary entry: logits, log-probabilities, their cumulative sum in float64


class TransformersEngine:
    """Samples from a model in this process, under whatever weights it has at the time."""

    name = "transformers"

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    @torch.no_grad()
    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion), a batch of requests at a time; log-probabilities cost nothing and always come."""
        self._model.network.eval()
        # neighbours in length share a batch, so that little is computed on padding
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        per_row = cache_row_bytes(self._model.causal.config, self._model.head.element_size())
        rows = rows_at_once(len(order), per_row * (longest + sampling.max_new_tokens), self._model.device)
        with whole_blocks(self._model):
            for start in range(0, len(order), rows):
                indices = order[start : start + rows]
                with merged(self._model), self._model.computing():
                    completions = self._generate([requests[i] for i in indices], sampling)
                yield from zip(indices, completions, strict=True)

    def update(self, model: LanguageModel) -> None:
        """The model in training is the one that is sampled from."""
        assert model is self._model

    def close(self) -> None:
        """There is no process to end."""

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        model = self._model
        width = max(len(request.prompt_ids) for request in requests)
        pads = [width - len(request.prompt_ids) for request in requests]
        pad_id = model.description.pad_id
        ids = torch.tensor([[pad_id] * pad + list(r.prompt_ids) for pad, r in zip(pads, requests, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        sampler = SeededSampler([request.seed for request in requests], sampling, model.device)
        generate: Any = model.causal.generate  # typed as a tensor by torch
        out = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            # the sampler leaves one token possible, and greedy decoding takes it
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(model.description.eos_ids),
                pad_token_id=pad_id,
            ),
            logits_processor=LogitsProcessorList([sampler]),
        )
        tokens = out[:, width:].tolist()
        logprobs = sampler.logprobs().tolist()
        return [
            _completion(row, scores, model.description.eos_ids) for row, scores in zip(tokens, logprobs, strict=True)
        ]


def rows_at_once(count: int, row_bytes: int, device: torch.device) -> int:
    """How many of `count` sequences are drawn together: as many as the cache may hold."""
    budget = _CPU_CACHE_BYTES
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2
    return max(1, min(count, _MOST_ROWS, budget // max(1, row_bytes)))


class SeededSampler(LogitsProcessor):
    """Draws each row's next token from the row's own random stream, by inverting the cumulative distribution.

    Token t of a row uses the t-th uniform number of the row's seed, so a row does not depend on its batch.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, device: torch.device) -> None:
        self._warpers = _warpers(sampling)
        self._greedy = sampling.temperature == 0
        self._uniforms = torch.stack([_uniforms(seed, sampling.max_new_tokens) for seed in seeds]).to(device)
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leaves the drawn token as the only possible one. input_ids[B, T], scores[B, V] -> [B, V]."""
        logits = scores.float()
        for warper in self._warpers:
            logits = warper(input_ids, logits)
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.argmax(-1, keepdim=True) if self._greedy else self._draw(logprobs)  # [B, 1]
        self._logprobs.append(logprobs.gather(1, chosen)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    def logprobs(self) -> Tensor:
        """Log-probabilities of the tokens drawn so far, [B, steps]."""
        return torch.stack(self._logprobs, dim=1).cpu()

    def _draw(self, logprobs: Tensor) -> Tensor:
        cumulative = logprobs.double().exp().cumsum(-1)  # [B, V]
        uniform = self._uniforms[:, len(self._logprobs), None] * cumulative[:, -1:]  # the sum is 1 but for rounding
        return torch.searchsorted(cumulative, uniform, right=True).clamp_max(logprobs.shape[-1] - 1)


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    warpers: list[LogitsProcessor] = []
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _completion(tokens: list[int], logprobs: list[float], eos_ids: frozenset[int]) -> Completion:
    end = next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), None)
    return Completion(
        tuple(tokens[:end]), tuple(logprobs[: end or len(tokens)]), finish="length" if end is None else "stop"
    )
