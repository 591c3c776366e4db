"""The engine of one process by its name, and the check that transformers samples a padded prompt correctly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from phfcli.core.config import EvalConfig
from phfcli.core.errors import FaultError, UserError, first_line
from phfcli.core.extensions import conforming, find
from phfcli.core.models.device import pick_device
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.weights import quantization_method
from phfcli.core.rollouts.chat import ChatEngine
from phfcli.core.rollouts.engine import Engine, Serving
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.rollouts.vllm import VllmEngine, is_vllms_gpu
from phfcli.core.types import Completion, Request, Sampling

_SHORT, _LONG, _DRAWN = 3, 12, 3  # tokens
_SAME = {torch.float64: 1e-4, torch.float32: 1e-2}  # nats
_COARSE = 0.5  # nats, in a lower precision or with quantised weights, where rounding may change the sampled token


def check_sampling(model: LanguageModel) -> None:
    """Raises UserError for a model whose completions depend on the other prompts of a batch."""
    name, kind = model.description.name, type(model.causal).__name__
    size = len(model.output_head)
    short, long = (Request(tuple((5 + 3 * i) % size for i in range(count)), count) for count in (_SHORT, _LONG))
    engine, sampling = TransformersEngine(model), Sampling(max_new_tokens=_DRAWN)
    try:
        together, alone = dict(engine.sample([short, long], sampling))[0], dict(engine.sample([short], sampling))[0]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name}: transformers cannot sample from {kind} here: {first_line(error)}") from None
    quantized = quantization_method(model.causal.config) is not None  # int8 rounds by all tokens of a batch
    close = _COARSE if quantized else _SAME.get(model.compute or model.head.dtype, _COARSE)
    if not _alike(together, alone, close):
        raise UserError(f"{name}: {kind} samples other tokens for a padded prompt; use vllm or another model")


def _alike(one: Completion, other: Completion, close: float) -> bool:
    """Whether the tokens agree, unless rounding may change them, and the log-probabilities of equal ones do."""
    if one.ids != other.ids and close < _COARSE:
        return False
    pairs = zip(one.logprobs, other.logprobs, one.ids, other.ids, strict=False)
    return all(abs(a - b) < close for a, b, x, y in pairs if x == y)


def by_chat(config: EvalConfig) -> bool:
    """Whether completions come from a server with chat completions. Raises UserError where no server is named."""
    if config.http.api == "chat" and not is_url(config.engine):
        raise UserError("http.api: chat asks a server; set engine to its http://HOST:PORT")
    return config.http.api == "chat"


def single_engine(config: EvalConfig, serving: Serving, warn: Callable[[str], None]) -> Engine:
    """The engine of that name in this process; "auto" is vLLM where it is usable on a GPU and can run the model."""
    if is_url(config.engine):
        return (ChatEngine if by_chat(config) else HttpEngine)(config.engine, serving)
    if (plugin := find("engines", config.engine)) is not None:
        engine: Engine = conforming("engines", config.engine, plugin(serving), Engine)
        return engine
    automatic = config.engine == "auto" and config.quantization == "none"
    if config.engine == "vllm":
        return VllmEngine(serving)
    if automatic and is_vllms_gpu(pick_device(config.device)):
        with going_on_without(warn):
            return _tried(VllmEngine(serving))
    model = load_model(serving.settings, serving.adapter)
    check_sampling(model)
    return TransformersEngine(model)


@contextmanager
def going_on_without(warn: Callable[[str], None]) -> Iterator[None]:
    """Ends at once, with a warning, where vLLM cannot start or run a model; transformers is then to draw instead."""
    try:
        yield
    except (UserError, FaultError) as error:
        reason = str(error).removeprefix("engine: vllm: ").partition("; what is finished")[0]
        warn(f"engine: auto: vLLM cannot run this model ({reason}); transformers draws instead")


def _tried(engine: VllmEngine) -> VllmEngine:
    """The engine, once it has drawn a token."""
    try:
        list(engine.sample([Request((0,) * _SHORT, 0)], Sampling(max_new_tokens=1)))
    except BaseException:
        engine.close()
        raise
    return engine


def is_url(name: str) -> bool:
    """Whether an engine's name is the address of a server."""
    return name.startswith(("http://", "https://"))
