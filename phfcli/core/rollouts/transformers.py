"""Rollouts from a transformers model in this process: the engine and its seeded sampler."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from phfcli.core.models.cached_attention import KeyValueCache, ReadPrompts, next_tokens
from phfcli.core.models.description import cache_row_bytes
from phfcli.core.models.device import free_memory
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import adapter_for_sampling
from phfcli.core.models.packing import pack, packed_arguments, row_arguments
from phfcli.core.models.sharding import whole_weights
from phfcli.core.models.trial import can_pack
from phfcli.core.types import Completion, Request, Sampling

_FEW = 256  # most likely tokens among which a nucleus is searched first


class SeededSampler(LogitsProcessor):
    """Inverts the cumulative distribution: token t of a row uses the t-th uniform number of the row's seed.

    A row's tokens then do not depend on its batch. As a logits processor of transformers it leaves one token possible.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._uniforms = torch.stack([_uniforms(seed, sampling.max_new_tokens) for seed in seeds]).to(device)
        self._logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leaves the drawn token as the only possible one. input_ids[B, T], scores[B, V] -> [B, V]."""
        rows = torch.arange(len(scores), device=scores.device)
        chosen, logprobs = self.draw(scores, rows, len(self._logprobs))
        self._logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def logprobs(self) -> Tensor:
        """Log-probabilities of the tokens drawn so far by generation, [B, steps]."""
        return torch.stack(self._logprobs, dim=1).cpu()

    def draw(self, scores: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Samples token number `step` of some rows: logits [B, V], rows [B] -> tokens [B], log-probabilities [B]."""
        logits = scores.float()
        if self._sampling.temperature == 0:
            chosen = logits.argmax(-1)
            return chosen, _cut(logits, self._sampling).log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        uniform = self._uniforms[rows, step]
        cut = candidates(logits, self._sampling)
        if cut is None:
            if self._sampling.temperature != 1:
                logits = logits / self._sampling.temperature
            return _invert(_cut(logits, self._sampling), uniform)
        ids_Bk, logits_Bk = cut
        index, logprobs = _invert(logits_Bk, uniform)
        return ids_Bk.gather(1, index[:, None])[:, 0], logprobs


def drawn_logprobs(logits: Tensor, tokens: Tensor, sampling: Sampling) -> Tensor:
    """Log-probability with which each token [n] is sampled from logits [n, V]: [n] in float32.

    Rounding may put a token that another engine has sampled outside the cut (top-k, nucleus). It then gets the
    probability of its logit beside the tokens inside.
    """
    logits = logits.float()
    cut = candidates(logits, sampling)
    scaled = logits / sampling.temperature
    kept = _cut(scaled, sampling) if cut is None else cut[1]
    return scaled.gather(1, tokens[:, None])[:, 0] - kept.logsumexp(-1)


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor] | None:
    """The tokens inside the cut, in the vocabulary's order: ids [B, k], logits over temperature or -inf [B, k].

    None where there is no cut, or where it may reach beyond the most likely tokens that are looked at.
    """
    if not sampling.top_k and sampling.top_p == 1:
        return None
    count = min(sampling.top_k or _FEW, logits.shape[1])
    values, ids = logits.topk(count)  # in falling order
    if sampling.top_k and int((logits >= values[:, -1:]).sum()) > values.numel():
        # ties with the last entry, common in bfloat16, stay inside as well
        last = values[:, -1:]
        values, ids = logits.topk(min(max(count, _FEW), logits.shape[1]))
        if values.shape[1] < logits.shape[1] and bool((values[:, -1:] == last).any()):
            return None  # there may be further ties
        values = values.masked_fill(values < last, -torch.inf)
    values = values / sampling.temperature
    if sampling.top_p < 1:
        total = (values if sampling.top_k else logits / sampling.temperature).logsumexp(-1, keepdim=True)
        reached = (values - total).exp().cumsum(-1)
        if not sampling.top_k and bool((reached[:, -1] <= sampling.top_p).any()):
            return None
        outside = torch.zeros_like(reached, dtype=torch.bool)
        outside[:, 1:] = reached[:, :-1] >= sampling.top_p  # the entries before it already make up the nucleus
        values = values.masked_fill(outside, -torch.inf)
    ids, order = ids.sort(-1)
    return ids, values.gather(1, order)


def _invert(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, k], uniform numbers [B] -> sampled indices [B] and their log-probabilities [B]."""
    logprobs = logits.log_softmax(-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    wanted = uniform[:, None] * cumulative[:, -1:]  # the sum is 1 up to rounding
    index = torch.searchsorted(cumulative, wanted, right=True).clamp_max(logits.shape[-1] - 1)
    return index[:, 0], logprobs.gather(1, index)[:, 0]


def _cut(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] over the temperature with -inf outside the cut, found by sorting the whole vocabulary."""
    none = torch.empty(0, dtype=torch.long)
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(none, logits)
    return TopPLogitsWarper(sampling.top_p)(none, logits) if sampling.top_p < 1 else logits


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


_CPU_CACHE_BYTES = 2 << 30
_MOST_ROWS = 512
SAMPLER_BYTES = 36  # for each row and vocabulary entry: logits, log-probabilities, cumulative sums in float64


class TransformersEngine:
    """Samples from a model in this process, under the weights that it has at the time."""

    name = "transformers"

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    @torch.no_grad()
    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion), a batch of requests at a time, always with log-probabilities."""
        self._model.network.eval()
        # prompts of similar length share a batch, so that little is masked or padded
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        per_row = cache_row_bytes(self._model.causal.config, self._model.head.element_size())
        rows = rows_at_once(len(order), per_row * (longest + sampling.max_new_tokens), self._model.device)
        with whole_weights(self._model):
            for start in range(0, len(order), rows):
                indices = order[start : start + rows]
                with adapter_for_sampling(self._model), self._model.computing():
                    draw = draw_rows if can_pack(self._model) else generate_rows
                    completions = draw(self._model, [requests[i] for i in indices], sampling)
                yield from zip(indices, completions, strict=True)

    def update(self, model: LanguageModel) -> None:
        """Does nothing: the engine samples from the model in training itself."""
        assert model is self._model

    def close(self) -> None:
        """Does nothing: there is no process to end."""


def draw_rows(model: LanguageModel, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """Completions of the requests, sampled together token by token."""
    prompts = [request.prompt_ids for request in requests]
    cache = KeyValueCache(len(prompts), max(map(len, prompts)) + sampling.max_new_tokens)
    sampler = SeededSampler([request.seed for request in requests], sampling, model.device)
    tokens: list[list[int]] = [[] for _ in requests]
    logprobs: list[list[float]] = [[] for _ in requests]
    live = list(range(len(requests)))  # for each of the first rows of the cache, the index of its request
    logits = _read_prompts(model, prompts, cache)
    for step in range(sampling.max_new_tokens):
        chosen, scores = sampler.draw(logits, torch.tensor(live, device=model.device), step)
        for request, token, score in zip(live, chosen.tolist(), scores.tolist(), strict=True):
            tokens[request].append(token)
            logprobs[request].append(score)
        lengths = {i: len(prompts[i]) + step for i in live}
        live = _compact(cache, live, [tokens[i][-1] not in model.description.eos_ids for i in live], lengths)
        if not live or step + 1 == sampling.max_new_tokens:
            break
        logits = _next_logits(model, cache, [tokens[i][-1] for i in live], [lengths[i] for i in live])
    return [_completion(*drawn, model.description.eos_ids) for drawn in zip(tokens, logprobs, strict=True)]


def _read_prompts(model: LanguageModel, prompts: Sequence[tuple[int, ...]], cache: KeyValueCache) -> Tensor:
    """Reads each distinct prompt once; returns the logits after each of `prompts`, [R, V]."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    packed = pack(list(rows), model.device)
    arguments = row_arguments(packed, ReadPrompts(cache, packed, list(rows.values())))
    logits: Tensor = model.causal(**arguments, logits_to_keep=packed.ends()).logits[0]
    distinct = {prompt: number for number, prompt in enumerate(rows)}
    return logits[[distinct[prompt] for prompt in prompts]]


def _next_logits(model: LanguageModel, cache: KeyValueCache, tokens: list[int], lengths: list[int]) -> Tensor:
    """Reads one more token of each row, which holds `lengths` tokens; returns the logits after it, [T, V]."""
    attend = next_tokens(cache, lengths, model.device)
    ids = torch.tensor(tokens, device=model.device)
    logits: Tensor = model.causal(**packed_arguments(ids, attend.columns, attend)).logits[0]
    return logits


def _compact(cache: KeyValueCache, live: list[int], goes_on: list[bool], lengths: dict[int, int]) -> list[int]:
    """Moves the last unfinished rows into the rows of finished ones; returns the requests of the rows that are left."""
    count = sum(goes_on)
    holes = [row for row, on in enumerate(goes_on[:count]) if not on]
    movers = [row for row, on in enumerate(goes_on) if on and row >= count]
    cache.move(movers, holes, max((lengths[live[row]] for row in movers), default=0))
    left = live[:count]
    for hole, mover in zip(holes, movers, strict=True):
        left[hole] = live[mover]
    return left


def generate_rows(model: LanguageModel, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    """The same by transformers' `generate`, on padded prompts: for a model that cannot be packed."""
    width = max(len(request.prompt_ids) for request in requests)
    pads = [width - len(request.prompt_ids) for request in requests]
    pad_id = model.description.pad_id
    ids = torch.tensor([[pad_id] * pad + list(r.prompt_ids) for pad, r in zip(pads, requests, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    sampler = SeededSampler([request.seed for request in requests], sampling, model.device)
    generate: Any = model.causal.generate  # torch types it as a tensor
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
    """How many of `count` sequences are sampled at once: as many as the key-value cache has memory for."""
    free = free_memory(device)
    budget = _CPU_CACHE_BYTES if free is None else free // 2
    return max(1, min(count, _MOST_ROWS, budget // max(1, row_bytes)))


def _completion(tokens: list[int], logprobs: list[float], eos_ids: frozenset[int]) -> Completion:
    end = next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), None)
    return Completion(
        tuple(tokens[:end]), tuple(logprobs[: end or len(tokens)]), finish="length" if end is None else "stop"
    )
