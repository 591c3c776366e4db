"""Attention over sampled keys against loops over single numbers, and by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from largest import Largest
from torch import Tensor

from phfcli.losses import Attention, attention_divergence, sampled_keys

B, M, HEADS, GROUPS, T, SIZE = 2, 3, 4, 2, 12, 5
COLUMNS = torch.tensor([[1, 6, 11], [0, 3, 9]])


def layer(seed: int, columns: int = T) -> Attention:
    torch.manual_seed(seed)
    queries = torch.randn(B, HEADS, columns, SIZE, dtype=torch.float64)
    return Attention(queries, torch.randn(B, GROUPS, columns, SIZE, dtype=torch.float64), SIZE**-0.5)


def kept(columns: Tensor, window: int, strided: int) -> list[list[list[int]]]:
    keys, allowed = sampled_keys(columns, window, strided)
    return [[sorted(k[a].tolist()) for k, a in zip(*rows, strict=True)] for rows in zip(keys, allowed, strict=True)]


@pytest.mark.parametrize(
    ("column", "window", "strided", "want"),
    [
        (9, 3, 2, [0, 4, 7, 8, 9]),  # seven before the window, every fourth
        (9, 3, 7, list(range(10))),
        (9, 3, 0, [7, 8, 9]),
        (1, 3, 2, [0, 1]),
        (0, 1, 5, [0]),
        (20, 1, 3, [0, 7, 14, 20]),
    ],
)
def test_keys_by_hand(column: int, window: int, strided: int, want: list[int]) -> None:
    assert kept(torch.tensor([[column]]), window, strided) == [[want]]


@given(st.integers(0, 500), st.integers(1, 40), st.integers(0, 40))
def test_keys_are_the_newest_and_some_earlier_ones(column: int, window: int, strided: int) -> None:
    ((keys,),) = kept(torch.tensor([[column]]), window, strided)
    assert len(set(keys)) == len(keys) <= window + strided
    assert set(range(max(0, column - window + 1), column + 1)) <= set(keys) <= set(range(column + 1))
    if column + 1 <= window + strided:
        assert keys == list(range(column + 1))
    elif strided:
        assert keys[0] == 0


def by_loops(student: Attention, teacher: Attention, window: int, strided: int) -> Tensor:
    out = torch.zeros(B, M, dtype=torch.float64)
    for b, rows in enumerate(kept(COLUMNS, window, strided)):
        for m, keys in enumerate(rows):
            for head in range(HEADS):
                p, q = (
                    torch.stack(
                        [
                            x.queries[b, head, COLUMNS[b, m]] @ x.keys[b, head // (HEADS // GROUPS), key] * x.scale
                            for key in keys
                        ]
                    ).softmax(0)
                    for x in (student, teacher)
                )
                middle = (p + q) / 2
                out[b, m] += ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2 / HEADS
    return out


@pytest.mark.parametrize(("window", "strided"), [(3, 2), (1, 1), (64, 64), (2, 0)])
def test_value_and_gradient_equal_the_loops(window: int, strided: int) -> None:
    student, teacher = layer(0), layer(1)
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.5, -1.0]], dtype=torch.float64)
    gradients = []
    for function in (attention_divergence, None):
        queries, keys = student.queries.clone().requires_grad_(), student.keys.clone().requires_grad_()
        mine = Attention(queries, keys, student.scale)
        value = (
            by_loops(mine, teacher, window, strided)
            if function is None
            else function(mine, teacher, COLUMNS, window, strided)
        )
        (value * weights).sum().backward()
        gradients.append((value.detach(), queries.grad, keys.grad))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


def test_by_hand() -> None:
    one = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    student = Attention(one, torch.tensor([[[[0.0], [math.log(3)]]]], dtype=torch.float64), 1.0)  # 1/4, 3/4
    teacher = Attention(one, torch.tensor([[[[0.0], [0.0]]]], dtype=torch.float64), 1.0)  # 1/2, 1/2
    got = attention_divergence(student, teacher, torch.tensor([[1]]), 2, 0)
    halves = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
    halves += 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
    assert got.item() == pytest.approx(halves / 2, abs=1e-15)


@pytest.mark.slow
def test_the_gradient_is_right_and_the_teacher_gets_none() -> None:
    student, teacher = layer(0), layer(1)

    def loss(queries: Tensor, keys: Tensor) -> Tensor:
        return attention_divergence(Attention(queries, keys, 0.4), teacher, COLUMNS, 3, 2).sum()

    assert torch.autograd.gradcheck(loss, (student.queries.requires_grad_(), student.keys.requires_grad_()))
    theirs = Attention(teacher.queries.requires_grad_(), teacher.keys.requires_grad_(), 0.4)
    attention_divergence(student, theirs, COLUMNS, 3, 2).sum().backward()
    assert theirs.queries.grad is None
    assert theirs.keys.grad is None


def test_equal_layers_have_no_divergence_and_no_gradient() -> None:
    student = layer(0)
    value = attention_divergence(
        Attention(student.queries.requires_grad_(), student.keys, student.scale), student, COLUMNS, 3, 2
    )
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros_like(value))
    assert student.queries.grad is not None
    assert student.queries.grad.abs().max() < 1e-12


def test_no_tensor_grows_with_heads_x_time_x_time() -> None:
    sizes = []
    for columns in (200, 800):
        student, teacher = layer(0, columns), layer(1, columns)
        with Largest() as largest:
            attention_divergence(student, teacher, torch.full((B, M), columns - 1), 8, 8)
        sizes.append(largest.numel / columns)
    assert sizes[0] == sizes[1]  # queries and keys themselves, [B, H, T, c]
