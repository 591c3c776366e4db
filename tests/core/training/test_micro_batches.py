"""Which samples are computed together."""

import pytest
import torch
from transformers import LlamaConfig

from phfcli.core.models.passes import Sample
from phfcli.core.training.micro_batches import micro_batches, tokens_at_once

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
