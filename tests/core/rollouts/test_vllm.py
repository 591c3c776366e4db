"""The vLLM engine, on real vLLM: it draws what transformers draws, under the weights it was handed last.

Float32 on the CPU. Two programs add the same numbers in different orders, so log-probabilities agree to 1e-4 nats.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle, islice

import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from phfcli.core.config import EvalConfig, LoraSettings, ModelSettings
from phfcli.core.evaluation.benchmarks import load_benchmark
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.build import probe_adapter
from phfcli.core.rollouts.engine import Engine, Serving
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.rollouts.vllm import VllmEngine
from phfcli.core.types import Completion, Request, Sampling

CPU = ModelSettings(device="cpu")
GREEDY = Sampling(temperature=0.0, max_new_tokens=64)
TOLERANCE = 1e-4  # nats

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.skipif(
        find_spec("vllm") is None and not os.environ.get("PHF_REQUIRE_VLLM"), reason="vLLM is not installed"
    ),
]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """The embedded model under an adapter that changes what it says."""
    model = add_lora(load_model(CPU), LoraSettings(r=64), seed=0)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    engine = VllmEngine(Serving(CPU, length=512), rank=64, training=True)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests(model: LanguageModel) -> list[Request]:
    prompts = Prompts(model.description.tokenizer)
    problems = load_benchmark("embedded", EvalConfig(limit=24)).problems
    return [Request(tuple(prompts.student(p.problem)), seed=100 + i) for i, p in enumerate(problems)]


def draw(engine: Engine, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
    return [completion for _, completion in sorted(engine.sample(requests, sampling), key=lambda pair: pair[0])]


def own_logprobs(model: LanguageModel, request: Request, completion: Completion, sampling: Sampling) -> torch.Tensor:
    """Of each drawn token under the trainer's own forward pass and the sampling's distribution."""
    ids = torch.tensor([[*request.prompt_ids, *completion.ids]])
    with torch.no_grad():
        logits = model.causal(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
    for warp in (
        TemperatureLogitsWarper(sampling.temperature),
        *([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
        TopPLogitsWarper(sampling.top_p),
    ):
        logits = warp(ids, logits)
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]


def test_greedy_tokens_are_those_of_transformers_without_an_adapter(
    engine: VllmEngine, requests: list[Request]
) -> None:
    base = load_model(CPU)
    drawn, expected = draw(engine, requests, GREEDY), draw(TransformersEngine(base), requests, GREEDY)
    assert [c.ids for c in drawn] == [c.ids for c in expected]
    assert [c.finish for c in drawn] == [c.finish for c in expected]
    assert all(c.ids[-1] in base.description.eos_ids for c in drawn if c.finish == "stop")


def test_greedy_tokens_are_those_of_transformers_with_an_adapter(
    engine: VllmEngine, model: LanguageModel, requests: list[Request]
) -> None:
    before = draw(engine, requests, GREEDY)
    engine.update(model)
    drawn = draw(engine, requests, GREEDY)
    assert [c.ids for c in drawn] == [c.ids for c in draw(TransformersEngine(model), requests, GREEDY)]
    assert [c.ids for c in drawn] != [c.ids for c in before]


@pytest.mark.parametrize(
    "sampling", [Sampling(max_new_tokens=64), Sampling(1.1, 0.95, 20, 64)], ids=["plain", "recipe"]
)
def test_log_probabilities_agree_with_the_trainers_own(
    engine: VllmEngine, model: LanguageModel, requests: list[Request], sampling: Sampling
) -> None:
    engine.update(model)
    for request, completion in zip(requests, draw(engine, requests, sampling), strict=True):
        own = own_logprobs(model, request, completion, sampling)
        torch.testing.assert_close(torch.tensor(completion.logprobs), own, rtol=0, atol=TOLERANCE)


def test_a_long_prompts_cached_blocks_do_not_outlive_the_adapter_they_were_made_with(
    engine: VllmEngine, model: LanguageModel, requests: list[Request]
) -> None:
    long = [Request(tuple(islice(cycle(requests[0].prompt_ids), 400)), seed=0)]  # vLLM's blocks on a CPU hold 128
    probe_adapter(engine, model, long[0].prompt_ids)
    with torch.no_grad():
        for p in model.trainable().values():
            p.mul_(0.5)
    engine.update(model)
    assert [c.ids for c in draw(engine, long, GREEDY)] == [c.ids for c in draw(TransformersEngine(model), long, GREEDY)]


def test_one_seed_gives_one_completion_whatever_is_sampled_beside_it(
    engine: VllmEngine, requests: list[Request]
) -> None:
    sampling = Sampling(max_new_tokens=64)
    together = draw(engine, requests, sampling)
    assert [c.ids for c in draw(engine, requests[:5], sampling)] == [c.ids for c in together[:5]]
    other = draw(engine, [replace(r, seed=r.seed + 1000) for r in requests], sampling)
    assert [c.ids for c in other] != [c.ids for c in together]


def test_an_abandoned_batch_leaves_nothing_behind(engine: VllmEngine, requests: list[Request]) -> None:
    drawing = engine.sample(requests, GREEDY)
    next(drawing)
    drawing.close()  # type: ignore[attr-defined] # a generator
    assert sorted(index for index, _ in engine.sample(requests[:3], GREEDY)) == [0, 1, 2]


def test_log_probabilities_are_left_out_where_nobody_asks(engine: VllmEngine, requests: list[Request]) -> None:
    [(_, completion)] = engine.sample(requests[:1], GREEDY, logprobs=False)
    assert completion.ids
    assert completion.logprobs == ()
