"""A check before sampling: a prompt draws the same tokens alone and padded beside a longer one.

Some models do not skip the padding on the left of a batch, and some cannot be sampled from in a batch at all.
"""

import torch

from phfcli.core.errors import UserError, first_line
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.quantization import comes_quantized
from phfcli.core.rollouts.transformers_engine import TransformersEngine
from phfcli.core.types import Completion, Request, Sampling

_SHORT, _LONG, _DRAWN = 3, 12, 3  # tokens
_SAME = {torch.float64: 1e-4, torch.float32: 1e-2}  # nats
_COARSE = 0.5  # in a lower precision or over quantised weights, where rounding may also decide which token is drawn


def check_sampling(model: LanguageModel) -> None:
    """Raises UserError for a model whose completions would depend on what is sampled beside them."""
    name, kind = model.description.name, type(model.causal).__name__
    size = len(model.output_head)
    short, long = (Request(tuple((5 + 3 * i) % size for i in range(count)), count) for count in (_SHORT, _LONG))
    engine, sampling = TransformersEngine(model), Sampling(max_new_tokens=_DRAWN)
    try:
        together, alone = dict(engine.sample([short, long], sampling))[0], dict(engine.sample([short], sampling))[0]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name}: transformers cannot sample from {kind} here: {first_line(error)}") from None
    quantized = comes_quantized(model.causal.config) is not None  # int8 rounds a token by what stands beside it
    close = _COARSE if quantized else _SAME.get(model.compute or model.head.dtype, _COARSE)
    if not _alike(together, alone, close):
        raise UserError(f"{name}: {kind} draws other tokens for a prompt that is padded; use vllm or another model")


def _alike(one: Completion, other: Completion, close: float) -> bool:
    """Whether the log-probabilities agree for as long as the tokens do."""
    if one.ids != other.ids and close < _COARSE:
        return False
    pairs = zip(one.logprobs, other.logprobs, one.ids, other.ids, strict=False)
    return all(abs(a - b) < close for a, b, x, y in pairs if x == y)
