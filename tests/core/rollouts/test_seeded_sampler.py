"""The cut by candidates is the cut by sorting everything."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phfcli.core.rollouts import transformers as seeded_sampler
from phfcli.core.rollouts.transformers import SeededSampler, candidates, drawn_logprobs
from phfcli.core.types import Sampling

CPU = torch.device("cpu")


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
