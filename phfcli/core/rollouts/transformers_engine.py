"""Rollouts from a transformers model in this process.

Each distinct prompt is read once, all in one packed row that holds what they begin with in one place; then the rows
that have not ended draw a token at a time, with keys and values in places taken once. Models whose sequences cannot be
packed are left to transformers' own generation.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from phfcli.core.models.adapters.lora import cheap_adapter
from phfcli.core.models.architecture.sizes import cache_row_bytes
from phfcli.core.models.kernels.packed_attention import can_pack, packed_arguments, row_arguments
from phfcli.core.models.kernels.packed_row import pack
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.sharding import whole_weights
from phfcli.core.rollouts.key_value_cache import KeyValueCache, ReadPrompts, next_tokens
from phfcli.core.rollouts.seeded_sampler import SeededSampler
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
        # neighbours in length share a batch, so that little is masked, or computed on padding where there is any
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        per_row = cache_row_bytes(self._model.causal.config, self._model.head.element_size())
        rows = rows_at_once(len(order), per_row * (longest + sampling.max_new_tokens), self._model.device)
        with whole_weights(self._model):
            for start in range(0, len(order), rows):
                indices = order[start : start + rows]
                with cheap_adapter(self._model), self._model.computing():
                    draw = draw_rows if can_pack(self._model) else generate_rows
                    completions = draw(self._model, [requests[i] for i in indices], sampling)
                yield from zip(indices, completions, strict=True)

    def update(self, model: LanguageModel) -> None:
        """The model in training is the one that is sampled from."""
        assert model is self._model

    def close(self) -> None:
        """There is no process to end."""


def draw_rows(model: LanguageModel, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Completions drawn together, each from its own prompt and seed."""
    prompts = [request.prompt_ids for request in requests]
    cache = KeyValueCache(len(prompts), max(map(len, prompts)) + sampling.max_new_tokens)
    sampler = SeededSampler([request.seed for request in requests], sampling, model.device)
    tokens: list[list[int]] = [[] for _ in requests]
    logprobs: list[list[float]] = [[] for _ in requests]
    live = list(range(len(requests)))  # the request that each of the first rows of the cache belongs to
    logits = _read_prompts(model, prompts, cache)
    for step in range(sampling.max_new_tokens):
        chosen, scores = sampler.draw(logits, torch.tensor(live, device=model.device), step)
        for request, token, score in zip(live, chosen.tolist(), scores.tolist(), strict=True):
            tokens[request].append(token)
            logprobs[request].append(score)
        lengths = {i: len(prompts[i]) + step for i in live}
        live = _close_ranks(cache, live, [tokens[i][-1] not in model.description.eos_ids for i in live], lengths)
        if not live or step + 1 == sampling.max_new_tokens:
            break
        logits = _next_logits(model, cache, [tokens[i][-1] for i in live], [lengths[i] for i in live])
    return [_completion(*drawn, model.description.eos_ids) for drawn in zip(tokens, logprobs, strict=True)]


def _read_prompts(model: LanguageModel, prompts: Sequence[tuple[int, ...]], cache: KeyValueCache) -> Tensor:
    """Reads each distinct prompt once; returns the logits after them, a row for each of `prompts`, [R, V]."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    packed = pack(list(rows), model.device)
    arguments = row_arguments(packed, ReadPrompts(cache, packed, list(rows.values())))
    logits: Tensor = model.causal(**arguments, logits_to_keep=packed.ends()).logits[0]
    distinct = {prompt: number for number, prompt in enumerate(rows)}
    return logits[[distinct[prompt] for prompt in prompts]]


def _next_logits(model: LanguageModel, cache: KeyValueCache, tokens: list[int], lengths: list[int]) -> Tensor:
    """Reads one more token of each row, which so far holds so many; returns the logits after it, [T, V]."""
    attend = next_tokens(cache, lengths, model.device)
    ids = torch.tensor(tokens, device=model.device)
    logits: Tensor = model.causal(**packed_arguments(ids, attend.columns, attend)).logits[0]
    return logits


def _close_ranks(cache: KeyValueCache, live: list[int], goes_on: list[bool], lengths: dict[int, int]) -> list[int]:
    """Leaves the rows that go on, the last of them in the places of those that have ended; returns whose they are."""
    count = sum(goes_on)
    holes = [place for place, on in enumerate(goes_on[:count]) if not on]
    movers = [place for place, on in enumerate(goes_on) if on and place >= count]
    cache.move(movers, holes, max((lengths[live[place]] for place in movers), default=0))
    left = live[:count]
    for hole, mover in zip(holes, movers, strict=True):
        left[hole] = live[mover]
    return left


def generate_rows(model: LanguageModel, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """The same by transformers' own generation, on prompts padded to one width."""
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
    drawn = zip(out[:, width:].tolist(), sampler.logprobs().tolist(), strict=True)
    return [_completion(row, scores, model.description.eos_ids) for row, scores in drawn]


def rows_at_once(count: int, row_bytes: int, device: torch.device) -> int:
    """How many of `count` sequences are drawn together: as many as the cache may hold."""
    budget = _CPU_CACHE_BYTES
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for new tensors
        budget = (torch.cuda.mem_get_info(device)[0] + kept) // 2
    return max(1, min(count, _MOST_ROWS, budget // max(1, row_bytes)))


def _completion(tokens: list[int], logprobs: list[float], eos_ids: frozenset[int]) -> Completion:
    end = next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), None)
    return Completion(
        tuple(tokens[:end]), tuple(logprobs[: end or len(tokens)]), finish="length" if end is None else "stop"
    )
