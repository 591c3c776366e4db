"""Draws the next token of each row from the row's own random stream, from exactly the distribution asked for.

Cutting a distribution by sorting the whole vocabulary takes longer than making it. A top-k cut needs the likeliest k
entries alone, and a nucleus almost always lies within the likeliest few: they are taken first, and the whole vocabulary
is sorted only for rows where they do not reach, or where entries tie with the last of them.

Shapes: B rows, V vocabulary, k candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from phfcli.core.types import Sampling

_FEW = 256  # candidates that a nucleus is looked for in


class SeededSampler(LogitsProcessor):
    """Inverts the cumulative distribution: token t of a row uses the t-th uniform number of the row's seed.

    So a row does not depend on its batch. As a processor of transformers' generation it leaves one token possible.
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
        """Token number `step` of these rows: logits [B, V], rows [B] -> tokens [B] and their log-probabilities [B]."""
        logits = scores.float()
        if self._sampling.temperature == 0:
            chosen = logits.argmax(-1)
            return chosen, _cut(logits, self._sampling).log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        uniform = self._uniforms[rows, step]
        few = candidates(logits, self._sampling)
        if few is None:
            if self._sampling.temperature != 1:
                logits = logits / self._sampling.temperature
            return _invert(_cut(logits, self._sampling), uniform)
        ids_Bk, logits_Bk = few
        place, logprobs = _invert(logits_Bk, uniform)
        return ids_Bk.gather(1, place[:, None])[:, 0], logprobs


def drawn_logprobs(logits: Tensor, tokens: Tensor, sampling: Sampling) -> Tensor:
    """ln of the probability that each token [n] is drawn with from logits [n, V]: [n] in float32.

    A token that the cut leaves out by a rounding error, since another engine has drawn it, is as likely as its logit
    says beside those that are left.
    """
    logits = logits.float()
    few = candidates(logits, sampling)
    scaled = logits / sampling.temperature
    kept = _cut(scaled, sampling) if few is None else few[1]
    return scaled.gather(1, tokens[:, None])[:, 0] - kept.logsumexp(-1)


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor] | None:
    """The entries that a cut may leave, in the vocabulary's order: ids [B, k], logits over temperature or -inf [B, k].

    None where nothing is cut, or the likeliest do not settle it.
    """
    if not sampling.top_k and sampling.top_p == 1:
        return None
    count = min(sampling.top_k or _FEW, logits.shape[1])
    values, ids = logits.topk(count)  # falling
    if sampling.top_k and int((logits >= values[:, -1:]).sum()) > values.numel():
        # more entries are as likely as the last, as is common in bfloat16, and stay as well
        last = values[:, -1:]
        values, ids = logits.topk(min(max(count, _FEW), logits.shape[1]))
        if values.shape[1] < logits.shape[1] and bool((values[:, -1:] == last).any()):
            return None  # and perhaps more than these
        values = values.masked_fill(values < last, -torch.inf)
    values = values / sampling.temperature
    if sampling.top_p < 1:
        total = (values if sampling.top_k else logits / sampling.temperature).logsumexp(-1, keepdim=True)
        reached = (values - total).exp().cumsum(-1)
        if not sampling.top_k and bool((reached[:, -1] <= sampling.top_p).any()):
            return None
        outside = torch.zeros_like(reached, dtype=torch.bool)
        outside[:, 1:] = reached[:, :-1] >= sampling.top_p  # those before it are the nucleus already
        values = values.masked_fill(outside, -torch.inf)
    ids, order = ids.sort(-1)
    return ids, values.gather(1, order)


def _invert(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, k], uniform numbers [B] -> the places drawn [B] and their log-probabilities [B]."""
    logprobs = logits.log_softmax(-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    wanted = uniform[:, None] * cumulative[:, -1:]  # the sum is 1 but for rounding
    place = torch.searchsorted(cumulative, wanted, right=True).clamp_max(logits.shape[-1] - 1)
    return place[:, 0], logprobs.gather(1, place)[:, 0]


def _cut(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits [B, V] over the temperature, -inf where they are cut, by sorting all of them."""
    none = torch.empty(0, dtype=torch.long)
    if sampling.top_k:
        logits = TopKLogitsWarper(sampling.top_k)(none, logits)
    return TopPLogitsWarper(sampling.top_p)(none, logits) if sampling.top_p < 1 else logits


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
