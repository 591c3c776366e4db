"""The selected positions: spread evenly, first and last included, each sample by its own length."""

from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
