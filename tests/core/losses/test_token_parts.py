"""Tokens sorted into parts."""

import torch

from phfcli.core.losses.positions import ENTROPY_EDGES, POSITION_PARTS, entropy_part, position_part, sums_by_part


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
