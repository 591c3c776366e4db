"""A packed row holds every sequence, and what they begin with once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.models.packing import PackedRow, pack

CPU = torch.device("cpu")
alike = st.lists(st.integers(0, 1), min_size=1, max_size=9)  # two tokens: many begin alike, some are equal
some_sequences = st.lists(alike, min_size=1, max_size=6)


def held(row: PackedRow, values: torch.Tensor, sequence: int) -> list[int]:
    return row.gather(values[None, :, None], sequence).flatten().tolist()


@given(some_sequences)
def test_each_sequence_is_found_in_the_row(sequences: list[list[int]]) -> None:
    row = pack(sequences, CPU)
    for index, ids in enumerate(sequences):
        assert held(row, row.ids, index) == ids
        assert held(row, row.positions, index) == list(range(len(ids)))
        columns = row.columns()[index]
        assert row.ids[columns].tolist()[: len(ids)] == ids
        assert set(columns[len(ids) - 1 :].tolist()) == {int(row.ends()[index])}


@given(some_sequences)
def test_a_beginning_is_held_once(sequences: list[list[int]]) -> None:
    distinct = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
    assert len(pack(sequences, CPU).ids) == len(distinct)


@given(some_sequences)
def test_what_is_computed_for_a_sequence_lies_together_in_the_order_of_sequences(sequences: list[list[int]]) -> None:
    row, start = pack(sequences, CPU), 0
    for pieces, own in zip(row.pieces, row.computed, strict=True):
        if own:
            assert pieces[-1] == slice(start, start + own)
        start += own
    assert start == len(row.ids)


def test_without_a_common_beginning_sequences_lie_one_behind_the_other() -> None:
    row = pack([[5, 6, 7], [8, 9]], CPU)
    assert row.ids.tolist() == [5, 6, 7, 8, 9]
    assert row.positions.tolist() == [0, 1, 2, 0, 1]
    assert row.computed == [3, 2]


def test_completions_of_one_problem_share_its_prompt_and_another_problem_the_template() -> None:
    template, first, second = [1, 2, 3, 4], [5, 6], [7]
    row = pack([[*template, *first, 10], [*template, *second, 12], [*template, *first, 11]], CPU)
    assert len(row.ids) == len(template) + len(first) + len(second) + 3


def test_a_short_beginning_of_long_sequences_is_not_shared() -> None:
    long = list(range(100, 200))
    assert len(pack([[1, *long], [1, 2, *long]], CPU).ids) == 203
