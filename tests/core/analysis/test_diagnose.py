"""The cosine of states over either end: a plain reference, values by hand, and flows on disk."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phfcli.core.analysis.diagnose import StateCosineSums, diagnose_file
from phfcli.core.losses.flow import measure_rollout
from phfcli.core.losses.positions import select_positions
from phfcli.core.runs.flows import Flow, Rollout, write_flow


def reference(rollouts: list[tuple[Tensor, Tensor, list[int], int]], layer: int, k: int, end: str) -> float:
    """A mean over the positions at one end of each rollout, then over rollouts, number by number."""
    means = []
    for student, teacher, positions, length in rollouts:
        values = []
        for place, position in enumerate(positions):
            if position < k if end == "first" else position >= length - k:
                a, b = student[layer, place].tolist(), teacher[layer, place].tolist()
                norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
                values.append(sum(x * y for x, y in zip(a, b, strict=True)) / norms)
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4), budget=st.integers(2, 16), seed=st.integers(0, 99))
def test_it_is_the_mean_over_the_positions_of_each_end(lengths: list[int], budget: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sums, rollouts = StateCosineSums(depth=2), []
    for length in lengths:
        selected, valid = select_positions(torch.tensor([length]), budget)
        positions = selected[valid].tolist()
        student, teacher = torch.randn(2, 2, len(positions), 3, dtype=torch.float64, generator=generator)
        rollouts.append((student, teacher, positions, length))
        sums.add(measure_rollout(student, teacher).cosine, positions, length)
    found = sums.result()
    longest = max(lengths)
    assert found.tokens == [*(2**i for i in range(10) if 2**i < longest), longest]
    for end, rows in found.ends():
        for k, row in zip(found.tokens, rows, strict=True):
            assert row == pytest.approx([reference(rollouts, layer, k, end) for layer in range(2)], abs=1e-12)
    assert found.first[-1] == pytest.approx(found.last[-1])


def test_readers_that_part_at_the_end_of_the_rollout(tmp_path: Path) -> None:
    """Four tokens, one layer: alike, alike, at right angles, opposite."""
    student = torch.tensor([[1.0, 0], [0, 2], [3, 0], [1, 1]]).view(1, 1, 4, 2)
    teacher = torch.tensor([[5.0, 0], [0, 1], [0, 7], [-2, -2]]).view(1, 1, 4, 2)
    rollout = Rollout((1,), (1, 2), (5, 6, 7, 8))
    parts = {"positions": torch.arange(4)[None], "valid": torch.ones(1, 4, dtype=torch.bool)}
    write_flow(
        tmp_path / "flow.safetensors",
        Flow(student, teacher, **parts, layers=torch.ones(1), rollouts=[rollout], texts={}),
    )
    told = diagnose_file(tmp_path / "flow.safetensors", "loss").as_json()["state_cosine"]
    assert told["tokens"] == [1, 2, 4]
    assert told["first"] == [[pytest.approx(value)] for value in (1, 1, 1 / 4)]
    assert told["last"] == [[pytest.approx(value)] for value in (-1, -1 / 2, 1 / 4)]


def test_an_end_at_which_no_position_was_selected_has_no_value() -> None:
    sums = StateCosineSums(depth=1)
    sums.add(torch.tensor([[0.5, 0.25]]), [3, 5], length=9)
    found = sums.result()
    assert found.tokens == [1, 2, 4, 8, 9]
    assert found.first == [[None], [None], [0.5], [0.375], [0.375]]
    assert found.last == [[None], [None], [0.25], [0.375], [0.375]]
