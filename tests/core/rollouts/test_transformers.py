"""Sampling with transformers: seeded row by row, from exactly the distribution that was asked for."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from phfcli.core.models.cached_attention import KeyValueCache, ReadPrompts, next_tokens
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.packing import pack
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts import transformers as seeded_sampler
from phfcli.core.rollouts import transformers as transformers_engine
from phfcli.core.rollouts.transformers import (
    SeededSampler,
    TransformersEngine,
    candidates,
    draw_rows,
    drawn_logprobs,
    generate_rows,
)
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


def logits(rows: int, vocabulary: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def drawn(sampling: Sampling, scores: Tensor, whole: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    sampler = SeededSampler(range(len(scores)), sampling, CPU)
    with monkeypatch.context() as patch:
        if whole:
            patch.setattr(seeded_sampler, "candidates", lambda _logits, _sampling: None)
        return sampler.draw(scores, torch.arange(len(scores)), 0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.1])
@pytest.mark.parametrize(("top_k", "top_p"), [(20, 0.95), (20, 1.0), (0, 0.95), (0, 0.3), (1, 0.9), (5000, 0.9)])
def test_tokens_and_log_probabilities_are_the_same(
    temperature: float, top_k: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(temperature, top_p, top_k, max_new_tokens=1)
    scores = logits(500, 2000, seed=top_k)
    ids, scored = drawn(sampling, scores, False, monkeypatch)
    all_ids, all_scored = drawn(sampling, scores, True, monkeypatch)
    assert torch.equal(ids, all_ids)
    torch.testing.assert_close(scored, all_scored, rtol=0, atol=1e-3)  # an entry on the very edge of a nucleus


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 30), st.floats(0.05, 0.99))
def test_what_is_left_is_what_sorting_leaves(seed: int, top_k: int, top_p: float) -> None:
    sampling = Sampling(1.0, top_p, top_k)
    scores = logits(3, 40, seed)
    few = candidates(scores, sampling)
    assert few is not None
    ids, values = few
    assert (ids.diff(dim=-1) > 0).all()
    left = torch.full_like(scores, -torch.inf).scatter(1, ids, values)
    whole = seeded_sampler._cut(scores, sampling)
    torch.testing.assert_close(left, whole)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_entries_that_tie_with_the_last_of_the_likeliest_stay(top_p: float) -> None:
    sampling = Sampling(1.0, top_p, 20)
    scores = logits(200, 2000, seed=3).bfloat16().float()
    twentieth = scores.topk(20).values[:, -1:]
    assert int(((scores >= twentieth).sum(-1) > 20).sum()) > 50  # rows with ties
    few = candidates(scores, sampling)
    assert few is not None
    left = torch.full_like(scores, -torch.inf).scatter(1, *few)
    whole = seeded_sampler._cut(scores, sampling)
    torch.testing.assert_close(left.sort(-1).values, whole.sort(-1).values)


def test_flat_distributions_are_left_to_the_whole_vocabulary() -> None:
    tied = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    few = candidates(tied, Sampling(top_k=2))
    assert few is not None
    assert few[1].tolist() == [[3, 1, 1, -torch.inf]]
    flat = torch.zeros(1, 2000)
    assert candidates(flat, Sampling(top_k=2)) is None
    assert candidates(flat, Sampling(top_p=0.9)) is None
    assert candidates(logits(2, 50, 1), Sampling()) is None


def test_rows_keep_their_own_streams() -> None:
    sampling = Sampling(max_new_tokens=3)
    scores = logits(4, 50, 2, scale=0.5)
    sampler = SeededSampler([7, 8, 9, 10], sampling, CPU)
    every, _ = sampler.draw(scores, torch.arange(4), 2)
    some, _ = sampler.draw(scores[[3, 1]], torch.tensor([3, 1]), 2)
    assert some.tolist() == every[[3, 1]].tolist()


@pytest.mark.parametrize(
    "sampling", [Sampling(1.1, 0.95, 20), Sampling(0.7, 0.9), Sampling(1.3), Sampling(1.0, 1.0, 5)]
)
def test_a_drawn_token_is_as_likely_as_it_was(sampling: Sampling) -> None:
    scores = logits(50, 300, seed=4)
    ids, scored = SeededSampler(range(50), sampling, CPU).draw(scores, torch.arange(50), 0)
    torch.testing.assert_close(drawn_logprobs(scores, ids, sampling), scored)


BLOCK = nn.Identity()


def heads(count: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(1, count, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_prompt_is_written_to_each_of_its_rows() -> None:
    cache = KeyValueCache(3, 6)
    queries, key, value = heads(4, 5, 3), heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [4, 5]], CPU), [[0, 2], [1]])(BLOCK, queries, key, value, None, 0.0, None)
    keys, values = cache.layers[BLOCK]
    for row in (0, 2):
        assert torch.equal(keys[row, :, :3], key[0, :, :3])
        assert torch.equal(values[row, :, :3], value[0, :, :3])
    assert torch.equal(keys[1, :, :2], key[0, :, 3:])


def test_a_prompt_that_begins_as_another_is_written_whole() -> None:
    cache = KeyValueCache(2, 6)
    queries, key, value = heads(4, 5, 3), heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [1, 2, 4, 5]], CPU), [[0], [1]])(BLOCK, queries, key, value, None, 0.0, None)
    keys, _ = cache.layers[BLOCK]
    assert torch.equal(keys[0, :, :3], key[0, :, :3])
    assert torch.equal(keys[1, :, :4], key[0, :, [0, 1, 3, 4]])


def test_a_new_token_attends_to_its_row_and_to_itself() -> None:
    cache = KeyValueCache(2, 6)
    queries, key, value = heads(4, 5, 3), heads(2, 5, 1), heads(2, 5, 2)
    ReadPrompts(cache, pack([[1, 2, 3], [4, 5]], CPU), [[0], [1]])(BLOCK, queries, key, value, None, 0.0, None)
    query, new_key, new_value = heads(4, 2, 4), heads(2, 2, 5), heads(2, 2, 6)
    out = next_tokens(cache, [3, 2], CPU)(BLOCK, query, new_key, new_value, None, 0.0, None)
    for row, own in ((0, slice(0, 3)), (1, slice(3, 5))):
        k = torch.cat([key[:, :, own], new_key[:, :, row : row + 1]], dim=2)
        v = torch.cat([value[:, :, own], new_value[:, :, row : row + 1]], dim=2)
        expected = scaled_dot_product_attention(query[:, :, row : row + 1], k, v, enable_gqa=True)
        torch.testing.assert_close(out[0, row], expected[0, :, 0])


def test_rows_move() -> None:
    cache = KeyValueCache(3, 4)
    cache.move([2], [0], 3)  # nothing is held yet
    keys, values = cache.of(BLOCK, heads(2, 1, 1), heads(2, 1, 2).float())
    assert (keys.dtype, values.dtype) == (torch.float64, torch.float32)
    keys.copy_(torch.arange(3.0)[:, None, None, None])
    cache.move([2], [0], 3)
    assert keys[0, 0, :, 0].tolist() == [2, 2, 2, 0]
    assert not values.any()
