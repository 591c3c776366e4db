"""Which positions of a completion are selected, what its tokens weigh, and the parts that they are sorted into."""

import math
from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phfcli.core.losses.positions import (
    ENTROPY_EDGES,
    POSITION_PARTS,
    after,
    entropy_part,
    normalised,
    position_part,
    rising,
    sums_by_part,
)
from phfcli.losses import select_positions


def chosen(length: int, budget: int) -> list[int]:
    positions, valid = select_positions(torch.tensor([length]), budget)
    return positions[0][valid[0]].tolist()


def spread(length: int, budget: int) -> list[int]:
    """By exact fractions, halves up."""
    count = min(length, budget)
    if count < 2:
        return list(range(count))
    return [floor(Fraction(i * (length - 1), count - 1) + Fraction(1, 2)) for i in range(count)]


def test_hand_computed() -> None:
    assert chosen(11, 3) == [0, 5, 10]
    assert chosen(10, 3) == [0, 5, 9]  # 4.5 goes up
    assert chosen(10, 4) == [0, 3, 6, 9]
    assert chosen(1024, 2) == [0, 1023]


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_short_lengths_take_all(length: int) -> None:
    assert chosen(length, 128) == list(range(length))


@settings(max_examples=150)
@given(length=st.integers(0, 5000), budget=st.integers(2, 300))
def test_even_spread(length: int, budget: int) -> None:
    got = chosen(length, budget)
    assert got == spread(length, budget)
    assert len(got) == min(length, budget)
    assert all(a < b for a, b in pairwise(got))
    if length:
        assert got[0] == 0
        assert got[-1] == length - 1
    gaps = [b - a for a, b in pairwise(got)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(length=st.integers(0, 300), budget=st.integers(1, 300))
def test_the_first_and_the_last_ones(length: int, budget: int) -> None:
    for where, want in (("first", range(length)[:budget]), ("last", range(length)[-budget:])):
        positions, valid = select_positions(torch.tensor([length, 2]), budget, where)
        assert positions[0][valid[0]].tolist() == list(want)
        assert not positions[~valid].any()


def test_a_single_position_is_the_first_or_the_last() -> None:
    assert select_positions(torch.tensor([7, 3]), 1, "last")[0].tolist() == [[6], [2]]
    with pytest.raises(ValueError, match="budget must be at least 1"):
        select_positions(torch.tensor([7]), 0, "last")


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(0, 400), min_size=1, max_size=6), budget=st.integers(2, 130))
def test_batch_equals_samples_one_by_one(lengths: list[int], budget: int) -> None:
    positions, valid = select_positions(torch.tensor(lengths), budget)
    assert positions.shape == valid.shape == (len(lengths), max(1, min(budget, max(lengths))))
    assert positions.dtype == torch.int64
    assert valid.dtype == torch.bool
    assert not positions[~valid].any()
    assert not (valid[:, 1:] & ~valid[:, :-1]).any()  # a prefix
    assert [row[keep].tolist() for row, keep in zip(positions, valid, strict=True)] == [
        chosen(length, budget) for length in lengths
    ]


def test_no_samples_and_other_integers() -> None:
    positions, valid = select_positions(torch.zeros(0, dtype=torch.int64))
    assert positions.shape == valid.shape == (0, 1)
    assert select_positions(torch.tensor([200], dtype=torch.int32))[0].shape == (1, 128)


@pytest.mark.parametrize(
    ("lengths", "budget"),
    [(torch.tensor([5]), 1), (torch.tensor([-1]), 8), (torch.tensor([[5]]), 8), (torch.tensor([5.0]), 8)],
)
def test_refused(lengths: torch.Tensor, budget: int) -> None:
    with pytest.raises(ValueError, match=r"budget|lengths"):
        select_positions(lengths, budget)


OFFSETS, LENGTHS = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([4, 4, 4, 4, 2, 2])


def test_a_sigmoid_rises_around_its_middle() -> None:
    found = rising(OFFSETS, LENGTHS, least=0.25, middle=0.25, width=0.125).tolist()
    want = [0.25 + 0.75 / (1 + math.exp(-(f - 0.25) / 0.125)) for f in (0.125, 0.375, 0.625, 0.875, 0.25, 0.75)]
    assert found == pytest.approx(want)
    assert found[4] == pytest.approx(0.625)


def test_the_first_tokens_are_skipped_and_the_others_share_their_weight() -> None:
    assert normalised(after(OFFSETS, 1), OFFSETS, LENGTHS).tolist() == pytest.approx([0, 4 / 3, 4 / 3, 4 / 3, 0, 2])
    assert normalised(after(OFFSETS, 2), OFFSETS, LENGTHS).tolist() == [
        0,
        0,
        2,
        2,
        0,
        0,
    ]  # nothing is left of the second


@given(st.lists(st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 5.0]), min_size=1, max_size=6), min_size=1, max_size=4))
def test_weights_have_the_mean_1_in_each_completion(completions: list[list[float]]) -> None:
    offsets = torch.tensor([place for own in completions for place in range(len(own))])
    lengths = torch.tensor([len(own) for own in completions for _ in own])
    weights = torch.tensor([value for own in completions for value in own], dtype=torch.float64)
    found = normalised(weights, offsets, lengths).split([len(own) for own in completions])
    for own, scaled in zip(completions, found, strict=True):
        assert float(scaled.mean()) == pytest.approx(1 if math.fsum(own) > 0 else 0)


def test_a_rollout_is_cut_into_sixteenths() -> None:
    long = position_part(torch.arange(160), torch.full((160,), 160))
    assert torch.bincount(long).tolist() == [10] * POSITION_PARTS
    assert position_part(torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])).tolist() == [0, 5, 10]


def test_an_edge_belongs_to_the_part_above_it() -> None:
    edges = torch.tensor(ENTROPY_EDGES)
    assert entropy_part(edges).tolist() == list(range(1, len(edges) + 1))
    assert entropy_part(edges - 1e-4).tolist() == list(range(len(edges)))


def test_sums_and_counts_of_each_part() -> None:
    sums, counts = sums_by_part(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [1, 0, 6, 0]
    assert counts.tolist() == [1, 0, 2, 0]
