"""The divergence of full logits: against plain Python, by hand, at its limits."""

import math
from typing import Any

import loss_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phfcli.losses import divergence

KINDS = ["jsd", "forward_kl", "reverse_kl"]
CLIPS: list[dict[str, Any]] = [{}, {"clip": 0.02}, {"clip": 0.05, "clip_mode": "token"}]


def draw(seed: int, tokens: int = 5, vocabulary: int = 7, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, tokens, vocabulary, generator=generator, dtype=torch.float64)
    return student, teacher


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    beta=st.floats(0.01, 0.99),
    temperature=st.floats(0.2, 5),
    clip=st.sampled_from(CLIPS),
    top_k=st.sampled_from([None, 1, 3, 7, 20]),
    support=st.sampled_from(["teacher", "student", "union"]),
    tail=st.booleans(),
    teacher_temperature=st.sampled_from([None, 0.7, 2.0]),
)
def test_equals_reference(seed: int, beta: float, clip: dict[str, Any], **options: Any) -> None:
    student, teacher = draw(seed)
    if options["top_k"] is None:
        options |= {"support": "teacher", "tail": False}
    got = divergence(student, teacher, beta=beta, **clip, **options)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    want = [reference.divergence(s, t, beta=beta, **clip, **options) for s, t in rows]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_hand_computed() -> None:
    student, teacher = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.4, 0.6]]).log()
    forward = 0.4 * math.log(0.4 / 0.8) + 0.6 * math.log(0.6 / 0.2)
    reverse = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    first = 0.5 * 0.4 * math.log(0.4 / 0.6) + 0.5 * 0.8 * math.log(0.8 / 0.6)
    second = 0.5 * 0.6 * math.log(0.6 / 0.4) + 0.5 * 0.2 * math.log(0.2 / 0.4)
    assert float(divergence(student, teacher, "forward_kl")) == pytest.approx(forward, rel=1e-5)
    assert float(divergence(student, teacher, "reverse_kl")) == pytest.approx(reverse, rel=1e-5)
    assert float(divergence(student, teacher)) == pytest.approx(first + second, rel=1e-5)
    assert first < 0.04 < second
    assert float(divergence(student, teacher, clip=0.04)) == pytest.approx(first + 0.04, rel=1e-5)
    assert float(divergence(student, teacher, clip=0.04, clip_mode="token")) == pytest.approx(0.04)
    # only the first entry of a forward KL is negative, and a clip does not hold it
    clipped = divergence(student, teacher, "forward_kl", clip=0.1)
    assert float(clipped) == pytest.approx(0.4 * math.log(0.5) + 0.1, rel=1e-5)


def test_a_clipped_entry_gives_no_gradient() -> None:
    student, teacher = draw(0)
    student.requires_grad_()
    divergence(student, teacher, clip=1e-9, clip_mode="token").sum().backward()
    assert student.grad is not None
    assert not student.grad.any()
    student.grad = None
    divergence(student, teacher, clip=1e9).sum().backward()
    open_grad = student.grad.clone()
    student.grad = None
    divergence(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, open_grad)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), scale=st.floats(0.01, 50))
def test_jsd_is_symmetric_at_one_half_and_bounded(seed: int, scale: float) -> None:
    student, teacher = draw(seed, scale=scale)
    one, other = divergence(student, teacher), divergence(teacher, student)
    torch.testing.assert_close(one, other)
    assert (one >= -1e-12).all()
    assert (one <= math.log(2) + 1e-9).all()
    for kind in KINDS:
        assert (divergence(student, teacher, kind) >= -1e-12).all()  # type: ignore[arg-type]
        assert (divergence(student, student, kind).abs() <= 1e-12).all()  # type: ignore[arg-type]


def test_jsd_of_extreme_beta_is_a_kl() -> None:
    student, teacher = draw(1)
    beta = 1e-5
    near_student = divergence(student, teacher, beta=beta) / beta  # M = S, the rest is beta KL(T || S)
    near_teacher = divergence(student, teacher, beta=1 - beta) / beta
    torch.testing.assert_close(near_student, divergence(student, teacher, "forward_kl"), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(near_teacher, divergence(student, teacher, "reverse_kl"), rtol=1e-2, atol=1e-3)


def test_temperature_divides_both_logits() -> None:
    student, teacher = draw(2)
    torch.testing.assert_close(divergence(student, teacher, temperature=1.1), divergence(student / 1.1, teacher / 1.1))


def test_shift_of_the_logits_changes_nothing_even_when_large() -> None:
    student, teacher = (x.float() for x in draw(3))
    shifted = divergence(student + 1e3, teacher - 1e3)
    torch.testing.assert_close(shifted, divergence(student, teacher), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_entries(kind: Any, clip: dict[str, Any], dtype: torch.dtype) -> None:
    """Entries of logit -inf in both are as if they were not there; elsewhere nothing is NaN."""
    student, teacher = (x.to(dtype) for x in draw(4))
    gone = torch.full((5, 2), -math.inf, dtype=dtype)
    wide = torch.cat((student, gone), 1).requires_grad_()
    got = divergence(wide, torch.cat((teacher, gone), 1), kind, **clip)
    torch.testing.assert_close(got, divergence(student, teacher, kind, **clip))
    got.sum().backward()
    assert wide.grad is not None
    assert wide.grad.isfinite().all()
    assert not wide.grad[:, -2:].any()
    # the student or the teacher alone rules an entry out
    for s, t in [((student, gone), (teacher, student[:, :2])), ((student, teacher[:, :2]), (teacher, gone))]:
        wide = torch.cat(s, 1).requires_grad_()
        value = divergence(wide, torch.cat(t, 1), kind, **clip)
        value.sum().backward()
        assert not value.isnan().any()
        assert wide.grad is not None
        assert not wide.grad.isnan().any()
        assert kind != "jsd" or bool((value <= math.log(2)).all())


def test_certain_and_opposite_distributions() -> None:
    logits = torch.tensor([[200.0, -200.0]])
    assert float(divergence(logits, -logits)) == pytest.approx(math.log(2))
    assert float(divergence(logits, -logits, "forward_kl")) == pytest.approx(400)
    assert float(divergence(logits, logits)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("top_k", [None, 3])
def test_gradcheck_and_student_only(kind: Any, clip: dict[str, Any], top_k: int | None) -> None:
    student, teacher = draw(5, tokens=3)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: divergence(s, teacher.detach(), kind, 0.3, 1.3, top_k=top_k, **clip), student
    )
    divergence(student, teacher, kind, top_k=top_k, **clip).sum().backward()
    assert teacher.grad is None


def test_precision_and_leading_shapes() -> None:
    student, teacher = draw(6, tokens=6)
    exact = divergence(student, teacher)
    assert exact.dtype == torch.float64
    low = divergence(student.bfloat16(), teacher.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, divergence(student.bfloat16().float(), teacher.bfloat16().float()))
    torch.testing.assert_close(divergence(student.view(2, 3, 7), teacher.view(2, 3, 7)), exact.view(2, 3))
    assert divergence(student[:0], teacher[:0]).shape == (0,)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "kl"},
        {"clip_mode": "entry"},
        {"beta": 0.0},
        {"beta": 1.0},
        {"beta": math.nan},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"clip": 0.0},
        {"clip": math.nan},
        {"top_k": 0},
    ],
)
def test_refused_options(options: dict[str, Any]) -> None:
    student, teacher = draw(0)
    with pytest.raises(ValueError, match=next(iter(options))):
        divergence(student, teacher, **options)


def test_refused_shapes() -> None:
    student, teacher = draw(0)
    with pytest.raises(ValueError, match="one shape"):
        divergence(student, teacher[:, :3])
