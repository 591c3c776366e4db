"""The weights of tokens, by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.losses.positions import after, normalised, prefix_importance, ramp

OFFSETS, LENGTHS = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([4, 4, 4, 4, 2, 2])


def test_ramps_rise_and_fall_evenly() -> None:
    assert ramp(OFFSETS, LENGTHS, falling=False).tolist() == [0.125, 0.375, 0.625, 0.875, 0.25, 0.75]
    assert ramp(OFFSETS, LENGTHS, falling=True).tolist() == [0.875, 0.625, 0.375, 0.125, 0.75, 0.25]


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


def test_a_prefix_counts_for_what_the_teacher_would_have_written() -> None:
    student = torch.tensor([0.5, 0.5, 0.8, 0.5, 0.25, 1.0]).log()
    teacher = torch.tensor([0.25, 1.0, 0.2, 0.5, 0.5, 0.5]).log()
    want = [1, 0.5, 0.5, 0.125, 1, 1]  # 0.25 / 0.5, then no less, then 0.2 / 0.8; the second completion begins anew
    assert prefix_importance(student, teacher, OFFSETS).tolist() == pytest.approx(want)


@given(st.lists(st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 5.0]), min_size=1, max_size=6), min_size=1, max_size=4))
def test_weights_have_the_mean_1_in_each_completion(completions: list[list[float]]) -> None:
    offsets = torch.tensor([place for own in completions for place in range(len(own))])
    lengths = torch.tensor([len(own) for own in completions for _ in own])
    weights = torch.tensor([value for own in completions for value in own], dtype=torch.float64)
    found = normalised(weights, offsets, lengths).split([len(own) for own in completions])
    for own, scaled in zip(completions, found, strict=True):
        assert float(scaled.mean()) == pytest.approx(1 if math.fsum(own) > 0 else 0)
