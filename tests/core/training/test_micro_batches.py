"""Which samples are computed together."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from phfcli.core.models.passes import Sample, collate
from phfcli.core.training.micro_batches import micro_batches, split_up, tokens_at_once

SAMPLES = [Sample([1] * prompt, None, [1] * count) for prompt, count in ((2, 3), (9, 9), (2, 2), (5, 5), (1, 1))]
SIZES = LlamaConfig(num_hidden_layers=30, hidden_size=576, intermediate_size=1536)


def places(size: int, tokens: int | None) -> list[list[int]]:
    return [[SAMPLES.index(sample) for sample in part] for part in micro_batches(SAMPLES, size, tokens)]


def test_the_longest_come_first_and_a_part_keeps_its_order() -> None:
    assert places(5, None) == [[0, 1, 2, 3, 4]]
    assert places(2, None) == [[1, 3], [0, 2], [4]]


def test_tokens_bound_a_part_but_a_long_sample_stands_alone() -> None:
    assert places(5, 15) == [[1], [0, 3], [2, 4]]
    assert places(5, 1) == [[1], [3], [0], [2], [4]]
    assert micro_batches([], 5, 15) == []


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 400), st.integers(20, 1024)), min_size=1, max_size=20))
def test_little_of_a_padded_part_is_padding(lengths: list[tuple[int, int, int]]) -> None:
    samples = [Sample([1] * student, [1] * teacher, [1] * count) for student, teacher, count in lengths]
    parts = micro_batches(samples, 4, None, padding=0.02)
    assert sorted(map(id, chain(*parts))) == sorted(map(id, samples))
    for part in parts:
        assert len(part) <= 4
        batch = collate(part, 4, 0, torch.device("cpu"))
        assert batch.teacher is not None
        masks = torch.cat([batch.student.attention_mask.flatten(), batch.teacher.attention_mask.flatten()])
        assert 1 - masks.double().mean() <= 0.02


def test_samples_of_like_length_are_still_computed_together() -> None:
    samples = [Sample([1] * 10, None, [1] * count) for count in (90, 89, 90, 20)]
    assert [len(part) for part in micro_batches(samples, 4, None, padding=0.02)] == [3, 1]


@given(st.lists(st.integers(1, 400), min_size=6, max_size=20), st.integers(1, 6))
def test_a_rank_makes_as_many_passes_as_another_with_no_more_padding(lengths: list[int], count: int) -> None:
    samples = [Sample([1] * 10, None, [1] * length) for length in lengths]
    parts = micro_batches(samples, 4, None, padding=0.02)
    more = split_up(parts, count)
    assert len(more) == max(len(parts), count)
    assert all(more)
    assert list(map(id, chain(*more))) == list(map(id, chain(*parts)))

    def columns(batches: list[list[Sample]]) -> int:
        return sum(len(batch) * max(sample.columns for sample in batch) for batch in batches)

    assert columns(more) <= columns(parts)


def test_more_passes_than_samples_are_a_fault() -> None:
    with pytest.raises(ValueError, match="5 samples cannot be split into 6"):
        split_up([SAMPLES], 6)


def test_packed_completions_of_one_problem_stay_together_and_their_prompt_counts_once() -> None:
    first, second = [1] * 6, [2] * 6
    samples = [Sample(prompt, None, [3] * count) for prompt in (first, second) for count in (1, 5, 3)]
    samples[4] = Sample(second, None, [3] * 7)  # the longest of all

    def lengths(size: int, tokens: int | None, packed: bool) -> list[list[tuple[int, int]]]:
        parts = micro_batches(samples, size, tokens, packed)
        return [[(s.student_prompt[0], len(s.completion)) for s in part] for part in parts]

    assert lengths(3, None, True) == [[(2, 1), (2, 7), (2, 3)], [(1, 1), (1, 5), (1, 3)]]
    assert lengths(3, None, False) == [[(1, 5), (1, 3), (2, 7)], [(1, 1), (2, 1), (2, 3)]]
    assert lengths(6, 17, True) == [[(2, 1), (2, 7), (2, 3)], [(1, 1), (1, 5), (1, 3)]]  # 6 + 11 tokens of the first
    assert lengths(6, 16, True) == [[(2, 7), (2, 3)], [(2, 1)], [(1, 1), (1, 5), (1, 3)]]


@pytest.mark.parametrize(("device", "sharded"), [("cuda", False), ("cpu", True)])
def test_only_a_cpu_that_is_alone_is_bounded(device: str, sharded: bool) -> None:
    assert tokens_at_once(SIZES, 4, torch.device(device), sharded) is None


def test_two_gibibytes_hold_about_1000_tokens_of_a_small_model() -> None:
    assert tokens_at_once(SIZES, 4, torch.device("cpu"), False) == 1059
