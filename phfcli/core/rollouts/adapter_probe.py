"""Checks before a run that an engine with weights of its own follows the trained weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice

import torch

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.types import Completion, Request, Sampling

PROBE_TOKENS = 300  # longer than two of any engine's cache blocks, whose stale content would show
_DRAWN = 8  # of them
_NOISE = 0.1  # standard deviation
_SAME = 1e-3  # nats


def probe_adapter(engine: TrainingEngine, model: LanguageModel, prompt: Sequence[int]) -> None:
    """Changes the weights and changes them back, and looks at what the engine draws each time.

    Raises:
        RuntimeError: if another adapter changes nothing, or the first one does not come back.
    """
    room = min(PROBE_TOKENS, model.description.context) - _DRAWN
    request = Request(tuple(islice(cycle(prompt), room)), seed=0)
    before = _draw(engine, model, request)
    with _other_weights(model):
        changed = _draw(engine, model, request)
    after = _draw(engine, model, request)
    if _alike(before, changed):
        raise RuntimeError(f"the {engine.name} engine draws the same under other weights: it cannot follow training")
    if not _alike(before, after):
        raise RuntimeError(f"the {engine.name} engine does not come back to earlier weights: it keeps old ones")


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
