"""Sampling: seeded row by row, from exactly the distribution that was asked for."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts import transformers as transformers_engine
from phfcli.core.rollouts.transformers import SeededSampler, TransformersEngine, draw_rows, generate_rows
from phfcli.core.types import Completion, Request, Sampling

CPU = torch.device("cpu")
PROBLEMS = ["Start with 3, add 4.", "Start with 37, add 8, multiply by 2, subtract 45, add 12.", "Start with 90."]


@pytest.fixture
def requests_(embedded: LanguageModel) -> list[Request]:
    prompts = Prompts(embedded.description.tokenizer)
    return [Request(tuple(prompts.student(p)), seed) for p in PROBLEMS for seed in (1, 2)]


def sample(model: LanguageModel, requests: list[Request], sampling: Sampling) -> list[Completion]:
    return [c for _, c in sorted(TransformersEngine(model).sample(requests, sampling), key=lambda pair: pair[0])]


def test_a_completion_does_not_depend_on_its_batch(embedded: LanguageModel, requests_: list[Request]) -> None:
    sampling = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=60)
    together = sample(embedded, requests_, sampling)
    for request, completion in zip(requests_, together, strict=True):
        (alone,) = sample(embedded, [request], sampling)
        assert alone.ids == completion.ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-4)


def test_log_probabilities_are_the_models_own(embedded: LanguageModel, requests_: list[Request]) -> None:
    for temperature in (0.7, 1.0):
        sampling = Sampling(temperature=temperature, max_new_tokens=30)
        for request, completion in zip(requests_, sample(embedded, requests_, sampling), strict=True):
            ids = torch.tensor([[*request.prompt_ids, *completion.ids]])
            logits = embedded.causal(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1]
            expected = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_completion_ends_with_its_end_token_or_is_cut(embedded: LanguageModel, requests_: list[Request]) -> None:
    for length, finish in ((100, "stop"), (5, "length")):
        for completion in sample(embedded, requests_, Sampling(max_new_tokens=length)):
            assert completion.finish == finish
            assert len(completion.logprobs) == len(completion.ids)
            inner = completion.ids[:-1] if finish == "stop" else completion.ids
            assert not embedded.description.eos_ids & set(inner)
            assert (completion.ids[-1] in embedded.description.eos_ids) == (finish == "stop")


def test_greedy_takes_the_most_likely_token(embedded: LanguageModel, requests_: list[Request]) -> None:
    one, other = sample(embedded, requests_[:2], Sampling(temperature=0, max_new_tokens=40))
    assert one.ids == other.ids
    ids = torch.tensor([[*requests_[0].prompt_ids, *one.ids]])
    best = embedded.causal(input_ids=ids).logits[0, len(requests_[0].prompt_ids) - 1 : -1].argmax(-1)
    assert best.tolist() == list(one.ids)


def test_frequencies_are_those_of_the_cut_and_renormalised_distribution() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
    sampling = Sampling(temperature=1.0, top_p=0.8, top_k=4, max_new_tokens=1)
    count = 20_000
    sampler = SeededSampler(range(count), sampling, CPU)
    out = sampler(torch.zeros(count, 1, dtype=torch.long), probabilities.log().expand(count, -1).clone())
    assert torch.isfinite(out).sum(1).eq(1).all()
    drawn = Counter(out.argmax(-1).tolist())
    # top-k keeps four of 0.95 in all, of which the first three make up the nucleus of 0.8
    expected = {0: 0.4 / 0.85, 1: 0.3 / 0.85, 2: 0.15 / 0.85}
    assert drawn.keys() == expected.keys()
    for token, share in expected.items():
        assert drawn[token] / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_no_token_of_probability_zero_is_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        sampler = SeededSampler([0], Sampling(max_new_tokens=1), CPU)
        sampler._uniforms.fill_(uniform)
        assert sampler(torch.zeros(1, 1, dtype=torch.long), logits).argmax().item() == 1


def test_nothing_to_sample_is_fine(embedded: LanguageModel) -> None:
    assert sample(embedded, [], Sampling()) == []


@pytest.mark.parametrize("greedy", [True, False])
def test_our_own_loop_draws_what_transformers_generation_draws(
    embedded: LanguageModel, requests_: list[Request], greedy: bool
) -> None:
    cut = Sampling(temperature=0) if greedy else Sampling(temperature=1.1, top_p=0.95, top_k=20)
    sampling = replace(cut, max_new_tokens=70)
    with torch.no_grad():
        own, theirs = draw_rows(embedded, requests_, sampling), generate_rows(embedded, requests_, sampling)
    assert len({len(completion.ids) for completion in own}) > 1  # rows end at different times
    for a, b in zip(own, theirs, strict=True):
        assert (a.ids, a.finish) == (b.ids, b.finish)
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_prompt_of_a_group_is_read_once(embedded: LanguageModel, requests_: list[Request]) -> None:
    read: list[int] = []
    handle = embedded.blocks[0].register_forward_hook(lambda _module, _args, out: read.append(out.shape[1]))
    sample(embedded, [replace(requests_[0], seed=seed) for seed in range(4)], Sampling(max_new_tokens=2))
    handle.remove()
    assert read[-2:] == [len(requests_[0].prompt_ids), 4]


def test_a_model_that_cannot_be_packed_is_left_to_generation(
    embedded: LanguageModel, requests_: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_new_tokens=5)
    own = sample(embedded, requests_, sampling)
    monkeypatch.setattr(transformers_engine, "can_pack", lambda _model: False)
    monkeypatch.setattr(transformers_engine, "draw_rows", None)
    assert [c.ids for c in sample(embedded, requests_, sampling)] == [c.ids for c in own]
