"""The pointwise control against its slow reference."""

import math

import loss_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phfcli.losses import mean_cosine, pointwise_loss


def draw(seed: int, layers: int, counts: list[int], d: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, layers, len(counts), 4, d)
    student, teacher = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, teacher, torch.arange(4) < torch.tensor(counts)[:, None]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    layers=st.integers(1, 3),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    d=st.integers(1, 4),
    normalized=st.booleans(),
    by_sample=st.booleans(),
)
def test_equals_reference(seed: int, layers: int, counts: list[int], d: int, normalized: bool, by_sample: bool) -> None:
    student, teacher, valid = draw(seed, layers, counts, d)
    student.requires_grad_()
    got = pointwise_loss(student, teacher, valid, normalized, by_sample)
    want, count = reference.pointwise(student, teacher, valid, normalized, by_sample)
    torch.testing.assert_close(got.loss, want)
    assert int(got.number) == count
    got_grad, want_grad = (torch.autograd.grad(loss, student)[0] for loss in (got.loss, want))
    torch.testing.assert_close(got_grad, want_grad)


def test_hand_computed() -> None:
    student = torch.tensor([[[[1.0, 2.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    teacher = torch.tensor([[[[3.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 7.0]]]])
    valid = torch.tensor([[True, False], [True, True]])
    assert float(pointwise_loss(student, teacher, valid).loss) == pytest.approx((4 / 2 + 50 / 4) / 2)
    assert float(pointwise_loss(student, teacher, valid, normalized=True).loss) == pytest.approx((4 / 13 + 1) / 2)


def test_the_cosine_by_hand() -> None:
    student = torch.tensor([[[[1.0, 0.0], [3.0, 4.0]], [[2.0, 0.0], [9.0, 9.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    teacher = torch.tensor([[[[2.0, 0.0], [4.0, 3.0]], [[0.0, 1.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    assert float(mean_cosine(student, teacher, valid)) == pytest.approx(((1 + 0.96) / 2 + 0) / 2)


def test_normalized_ignores_a_common_scale() -> None:
    student, teacher, valid = draw(0, 3, [4, 2], 5)
    scale = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64).view(3, 1, 1, 1)
    before = pointwise_loss(student, teacher, valid, normalized=True).loss
    torch.testing.assert_close(pointwise_loss(scale * student, scale * teacher, valid, normalized=True).loss, before)
    assert math.isfinite(float(pointwise_loss(student, 0 * teacher, valid, normalized=True).loss))


@pytest.mark.parametrize("normalized", [False, True])
def test_gradcheck_and_student_only(normalized: bool) -> None:
    student, teacher, valid = draw(0, 2, [4, 1, 0], 2)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: pointwise_loss(s, teacher, valid, normalized).loss, student.requires_grad_()
    )
    pointwise_loss(student, teacher, valid, normalized).loss.backward()
    assert teacher.grad is None


def test_nothing_valid_is_zero_with_a_gradient_and_padding_is_not_read() -> None:
    student, teacher, valid = draw(0, 2, [0, 0], 2)
    student[:] = math.nan
    student.requires_grad_()
    loss, samples = pointwise_loss(student, teacher, valid)
    loss.backward()
    assert float(loss.detach()) == 0
    assert int(samples) == 0
    assert student.grad is not None
    assert not student.grad.any()
