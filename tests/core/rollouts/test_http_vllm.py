"""The HTTP engine on a real vLLM server: it draws what transformers draws, follows training and outlives a kill."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import phf
from trained import SMALL, metrics, same_tensors
from vllm_server import NEEDS_VLLM, TAKES_ADAPTERS, VllmServer, vllm_server

from phfcli.core.config import HttpSettings, LoraSettings, ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.build import probe_adapter
from phfcli.core.rollouts.chat import ChatEngine, served_model
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.shipped_files import embedded_model
from phfcli.core.types import Completion, Request, Sampling

__all__ = ["phf"]

pytestmark = NEEDS_VLLM

CPU = ModelSettings(device="cpu", http=HttpSettings(patience_s=300, in_flight=64))
SAMPLING = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=100)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with vllm_server(embedded_model(), tmp_path_factory.mktemp("server"), TAKES_ADAPTERS) as server:
        yield server


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """The embedded model under an adapter that changes what it says."""
    model = add_lora(load_model(CPU), LoraSettings(r=8, alpha=16), seed=0)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture
def engine(server: VllmServer) -> Iterator[HttpEngine]:
    with closing(HttpEngine(server.url, Serving(CPU, 512))) as engine:
        yield engine


@pytest.fixture(scope="module")
def requests(model: LanguageModel) -> list[Request]:
    prompts = Prompts(model.description.tokenizer)
    problems = [f"Start with {n}, add {n % 7}, multiply by 2." for n in range(200)]
    return [Request(tuple(prompts.student(problem)), seed=n << 54) for n, problem in enumerate(problems)]


def sample(engine: HttpEngine | TransformersEngine, requests: list[Request], sampling: Sampling) -> list[Completion]:
    return [completion for _, completion in sorted(engine.sample(requests, sampling), key=lambda pair: pair[0])]


def test_greedy_tokens_under_an_adapter_are_those_of_transformers(
    engine: HttpEngine, model: LanguageModel, requests: list[Request]
) -> None:
    engine.update(model)
    greedy = Sampling(temperature=0, max_new_tokens=60)
    served, own = (sample(e, requests[:24], greedy) for e in (engine, TransformersEngine(model)))
    assert "stop" in {completion.finish for completion in own}
    for a, b in zip(served, own, strict=True):
        assert (a.ids, a.finish) == (b.ids, b.finish)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)


def test_its_chat_completions_are_the_same_greedy_text(server: VllmServer) -> None:
    """Its own chat template renders the messages, and its text is what transformers draws after the same prompt."""
    chat = CPU.model_copy(update={"model": str(embedded_model()), "http": HttpSettings(api="chat", patience_s=60)})
    base, greedy = load_model(CPU), Sampling(temperature=0, max_new_tokens=100)
    problems = [f"Start with {n}, add {n % 7}, multiply by 2, subtract 1, add 5." for n in range(20)]
    text, own = served_model("any"), Prompts(base.description.tokenizer)
    with closing(ChatEngine(server.url, Serving(chat, 512))) as engine:
        asked = [Request(tuple(Prompts(text.tokenizer).student(problem)), 0) for problem in problems]
        drawn = [text.text(c.ids) for _, c in sorted(engine.sample(asked, greedy, False), key=lambda pair: pair[0])]
    expected = sample(TransformersEngine(base), [Request(tuple(own.student(p)), 0) for p in problems], greedy)
    assert drawn == [base.description.text(completion.ids) for completion in expected]


def test_a_seed_draws_the_same_again_and_another_one_not(engine: HttpEngine, requests: list[Request]) -> None:
    together = sample(engine, requests[:20], SAMPLING)
    assert [sample(engine, [request], SAMPLING)[0].ids for request in requests[:20]] == [c.ids for c in together]
    hot = Sampling(temperature=2.0, max_new_tokens=20)
    assert len({c.ids for c in sample(engine, [Request(requests[0].prompt_ids, s) for s in range(10)], hot)}) > 1


def test_log_probabilities_are_of_the_distribution_that_was_drawn_from(
    engine: HttpEngine, requests: list[Request]
) -> None:
    only = Sampling(temperature=1.5, top_k=1, max_new_tokens=20)  # one token is possible
    for completion in sample(engine, requests[:5], only):
        assert completion.logprobs == pytest.approx([0.0] * len(completion.ids))


def test_updates_change_what_is_drawn_and_coming_back_restores_it(
    engine: HttpEngine, model: LanguageModel, requests: list[Request]
) -> None:
    probe_adapter(engine, model, requests[0].prompt_ids)


def test_an_adapter_of_too_high_a_rank_names_the_fix(engine: HttpEngine) -> None:
    wide = add_lora(load_model(CPU), LoraSettings(r=128, alpha=16), seed=0)
    with pytest.raises(UserError, match=r"rank 128 is greater.*start it .*--enable-lora --max-lora-rank 128`"):
        engine.update(wide)


def test_rollouts_drawn_a_step_ahead_are_one_update_old_and_a_resumed_run_trains_on_the_same(
    phf: Callable[..., Any], tmp_path: Path, server: VllmServer
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    engine = ("--set", f"rollout.engine={server.url}", "--set", "rollout.ahead=1", "--set", "optim.lr=0.01")
    assert phf("train", "--steps", 3, "--checkpoint-every", 2, *engine, *SMALL, "--output-dir", whole).code == 0
    assert [line["staleness"] for line in metrics(whole)] == [0, 1, 1]
    # what an engine's log-probabilities are off is then the update between
    gaps = [line["engine_gap"] for line in metrics(whole)]
    assert gaps[0] < 1e-3 < min(gaps[1:])
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step-000003")
    assert phf("train", "--output-dir", cut, "--resume", "--quiet").code == 0
    assert [line["staleness"] for line in metrics(cut)] == [0, 1, 1]
    adapter = "checkpoints/step-000003/adapter_model.safetensors"
    assert same_tensors(whole / adapter, cut / adapter)


def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(
    server: VllmServer, engine: HttpEngine, model: LanguageModel, requests: list[Request]
) -> None:
    engine.update(model)
    expected = sample(engine, requests, SAMPLING)
    rest = engine.sample(requests, SAMPLING)
    drawn = list(islice(rest, 50))
    server.kill()
    server.start()
    drawn += rest
    assert sorted(index for index, _ in drawn) == list(range(200))
    # sums of other batches may round a rare token to the other side of its draw
    assert sum(completion.ids == expected[index].ids for index, completion in drawn) >= 190
