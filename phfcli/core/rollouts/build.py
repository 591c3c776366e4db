"""The engine for a model and its settings, and whether an adapter changes what it draws."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice

import torch

from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.extensions import find
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.engine import Engine, Serving, TrainingEngine
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.rollouts.parallel import ParallelEngine
from phfcli.core.rollouts.single import check_sampling, is_url, single_engine
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.rollouts.vllm import VllmEngine, vllm_gap
from phfcli.core.types import Completion, Request, Sampling

PROBE_TOKENS = 300  # longer than two of any engine's cache blocks, whose stale content would show
_DRAWN = 8  # of them
_NOISE = 0.1  # standard deviation
_SAME = 1e-3  # nats


def probe_adapter(engine: TrainingEngine, model: LanguageModel, prompt: Sequence[int]) -> None:
    """Changes the weights and changes them back, and looks at what the engine draws each time.

    Raises:
        FaultError: if another adapter changes nothing, or the first one does not come back.
    """
    room = min(PROBE_TOKENS, model.description.context) - _DRAWN
    request = Request(tuple(islice(cycle(prompt), room)), seed=0)
    before = _draw(engine, model, request)
    with _other_weights(model):
        changed = _draw(engine, model, request)
    after = _draw(engine, model, request)
    if _alike(before, changed):
        raise FaultError(f"the {engine.name} engine draws the same under other weights: it cannot follow training")
    if not _alike(before, after):
        raise FaultError(f"the {engine.name} engine does not come back to earlier weights: it keeps old ones")


def _draw(engine: TrainingEngine, model: LanguageModel, request: Request) -> Completion:
    engine.update(model)
    [(_, completion)] = engine.sample([request], Sampling(max_new_tokens=_DRAWN))
    return completion


@contextmanager
def _other_weights(model: LanguageModel) -> Iterator[None]:
    noise = torch.Generator().manual_seed(0)
    kept = {name: p.detach().clone() for name, p in model.trainable().items()}
    try:
        with torch.no_grad():
            for p in model.trainable().values():
                p.add_(_NOISE * torch.randn(p.shape, generator=noise).to(p))
        yield
    finally:
        with torch.no_grad():
            for name, p in model.trainable().items():
                p.copy_(kept[name])


def _alike(a: Completion, b: Completion) -> bool:
    return a.ids == b.ids and all(abs(x - y) < _SAME for x, y in zip(a.logprobs, b.logprobs, strict=True))


def evaluation_engine(config: EvalConfig, serving: Serving, warn: Callable[[str], None]) -> Engine:
    """The engine an evaluation asks for, in one process or several.

    Raises:
        UserError: where it cannot be used, or does not take the model.
    """
    if (config.devices or config.workers) and is_url(config.engine):
        raise UserError("devices, workers: not with the URL of a server, which has its own data parallelism")
    environments = _environments(config)
    if environments:
        return ParallelEngine(config, serving, environments, warn)
    return single_engine(config, serving)


def training_engine(
    config: TrainConfig, model: LanguageModel, prompts: Iterable[Sequence[int]], new_tokens: int
) -> TrainingEngine:
    """The engine that draws a model's rollouts while it trains; "auto" is vLLM where it is usable on a GPU.

    vLLM's adapters are slow on a CPU: there "auto" is transformers. An engine with weights of its own is first shown
    to follow the model's.

    prompts: the token ids of every prompt to come; only read where an engine has to know them.
    new_tokens: that a completion of any of them may have.

    Raises:
        UserError: where it cannot be used, or does not take the model.
    """
    name = config.rollout.engine
    if name == "auto" and (config.quantization != "none" or model.fully_sharded):
        name = "transformers"
    if name == "auto" and model.device.type == "cuda" and vllm_gap(model.device) is None:
        name = "vllm"
    added = find("engines", name)
    if name != "vllm" and not is_url(name) and added is None:
        check_sampling(model)
        return TransformersEngine(model)
    rank = config.lora.r if config.tuning == "lora" else None
    if is_url(name) and rank is None:
        raise UserError("rollout.engine: a server takes over adapters only; with tuning=full use vllm or transformers")
    known = list(prompts)
    longest = max(map(len, known)) + new_tokens
    length = min(max(longest, PROBE_TOKENS), model.description.context)
    serving = Serving(config, length)
    engine: TrainingEngine
    if added is not None:
        engine = added(serving)
    else:
        engine = HttpEngine(name, serving) if is_url(name) else VllmEngine(serving, rank=rank, training=True)
    try:
        probe_adapter(engine, model, known[0])
    except BaseException:
        engine.close()
        raise
    return engine


def _environments(config: EvalConfig) -> list[Mapping[str, str]]:
    """What each sampling process finds in its environment; none if this process samples itself."""
    if config.devices is None:
        workers = config.workers or 0
        return [{"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}] * workers if workers else []
    if config.workers is not None:
        raise UserError("workers is for the CPU, devices for GPUs: set one of them")
    if not torch.cuda.is_available():
        raise UserError("devices: torch finds no GPU on this machine; workers=N samples in N processes on the CPU")
    size = config.vllm.tensor_parallel
    if len(config.devices) % size:
        raise UserError(f"devices: {len(config.devices)} devices cannot be shared out by vllm.tensor_parallel {size}")
    groups = [config.devices[start : start + size] for start in range(0, len(config.devices), size)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
