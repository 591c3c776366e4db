"""Builds the engine of a training or an evaluation, and checks that a training engine follows the weights."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice

import torch

from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.extensions import conforming, find
from phfcli.core.models.device import accelerator, seeing
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.engine import Engine, Serving, TrainingEngine
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.rollouts.parallel import ParallelEngine
from phfcli.core.rollouts.single import check_sampling, going_on_without, is_url, single_engine
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.rollouts.vllm import VllmEngine, is_vllms_gpu
from phfcli.core.types import Completion, Request, Sampling

PROBE_TOKENS = 300  # longer than two of any engine's cache blocks, whose stale content would show
_DRAWN = 8  # tokens of the probe that the engine samples; the others are its prompt
_NOISE = 0.1  # standard deviation
_SAME = 1e-3  # nats


def probe_adapter(engine: TrainingEngine, model: LanguageModel, prompt: Sequence[int]) -> None:
    """Checks that an engine follows training: it samples, again under changed weights, and again under the first ones.

    Raises:
        FaultError: if the change does not show in the samples, or remains after it is taken back.
    """
    room = min(PROBE_TOKENS, model.description.context) - _DRAWN
    request = Request(tuple(islice(cycle(prompt), room)), seed=0)
    before = _draw(engine, model, request)
    with _other_weights(model):
        changed = _draw(engine, model, request)
    after = _draw(engine, model, request)
    if _alike(before, changed):
        raise FaultError(f"the {engine.name} engine draws the same under other weights, so it does not follow training")
    if not _alike(before, after):
        raise FaultError(f"the {engine.name} engine keeps changed weights after they are changed back")


def _draw(engine: TrainingEngine, model: LanguageModel, request: Request) -> Completion:
    engine.update(model)
    [(_, completion)] = engine.sample([request], Sampling(max_new_tokens=_DRAWN))
    return completion


@contextmanager
def _other_weights(model: LanguageModel) -> Iterator[None]:
    """Within it the trainable weights have noise added."""
    noise = torch.Generator().manual_seed(0)
    before = {name: p.detach().clone() for name, p in model.trainable().items()}
    try:
        with torch.no_grad():
            for p in model.trainable().values():
                p.add_(_NOISE * torch.randn(p.shape, generator=noise).to(p))
        yield
    finally:
        with torch.no_grad():
            for name, p in model.trainable().items():
                p.copy_(before[name])


def _alike(a: Completion, b: Completion) -> bool:
    return a.ids == b.ids and all(abs(x - y) < _SAME for x, y in zip(a.logprobs, b.logprobs, strict=True))


def evaluation_engine(config: EvalConfig, serving: Serving, warn: Callable[[str], None]) -> Engine:
    """The engine of an evaluation, in one process or several.

    Raises:
        UserError: where it cannot be used, or refuses the model.
    """
    if (config.devices or config.workers) and is_url(config.engine):
        raise UserError("devices, workers: not with the URL of a server, which has its own data parallelism")
    environments = _environments(config)
    if environments:
        return ParallelEngine(config, serving, environments, warn)
    return single_engine(config, serving, warn)


def training_engine(
    config: TrainConfig,
    model: LanguageModel,
    prompts: Iterable[Sequence[int]],
    new_tokens: int,
    warn: Callable[[str], None],
) -> TrainingEngine:
    """The engine that samples a model's rollouts while it trains; "auto" is vLLM where it is usable on a GPU.

    Where vLLM cannot run the model, "auto" is transformers, which `warn` is told.

    On a CPU "auto" is transformers, since vLLM's adapters are slow there. An engine that holds a copy of the weights
    has to pass `probe_adapter`.

    Args:
        prompts: the token ids of every prompt of the run; only read where the engine has to know the longest.
        new_tokens: the most tokens that a completion may have.

    Raises:
        UserError: where it cannot be used, or refuses the model.
    """
    name = config.rollout.engine
    if name == "auto" and (config.quantization != "none" or model.fully_sharded):
        name = "transformers"
    if name == "auto" and is_vllms_gpu(model.device):
        with going_on_without(warn):
            return _copying_engine("vllm", config, model, prompts, new_tokens)
    if name != "vllm" and not is_url(name) and find("engines", name) is None:
        check_sampling(model)
        return TransformersEngine(model)
    return _copying_engine(name, config, model, prompts, new_tokens)


def _copying_engine(
    name: str, config: TrainConfig, model: LanguageModel, prompts: Iterable[Sequence[int]], new_tokens: int
) -> TrainingEngine:
    """An engine that holds a copy of the weights; see `training_engine`."""
    plugin = find("engines", name)
    rank = config.lora.r if config.tuning == "lora" else None
    if is_url(name) and config.http.api == "chat":
        raise UserError("http.api: chat completions do not follow training; use a vLLM server, vllm or transformers")
    if is_url(name) and rank is None:
        raise UserError("rollout.engine: a server loads adapters only; with tuning=full use vllm or transformers")
    known = list(prompts)
    longest = max(map(len, known)) + new_tokens
    length = min(max(longest, PROBE_TOKENS), model.description.context)
    serving = Serving(config, length)
    engine: TrainingEngine
    if plugin is not None:
        engine = conforming("engines", name, plugin(serving), TrainingEngine)
    else:
        engine = HttpEngine(name, serving) if is_url(name) else VllmEngine(serving, rank=rank, training=True)
    try:
        probe_adapter(engine, model, known[0])
    except BaseException:
        engine.close()
        raise
    return engine


def _environments(config: EvalConfig) -> list[Mapping[str, str]]:
    """The environment variables of each sampling process; none if this process samples itself."""
    if config.devices is None:
        workers = config.workers or 0
        return [{"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}] * workers if workers else []
    if config.workers is not None:
        raise UserError("workers is for the CPU, devices for GPUs: set one of them")
    if accelerator() is None:
        raise UserError("devices: torch finds no GPU on this machine; workers=N samples in N processes on the CPU")
    size = config.vllm.tensor_parallel
    if len(config.devices) % size:
        raise UserError(f"devices: {len(config.devices)} devices are no multiple of vllm.tensor_parallel={size}")
    groups = [config.devices[start : start + size] for start in range(0, len(config.devices), size)]
    return [seeing(group) for group in groups]
