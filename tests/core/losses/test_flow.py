"""The flow of hidden states: its terms against a plain reference, layer energies, the measures of one rollout."""

import math

import loss_reference as reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phfcli.core.losses.flow import effective_rank, measure_rollout, terms_of_blocks
from phfcli.core.models.architecture import with_next
from phfcli.losses import FlowTerms, entropy, flow_loss, flow_terms, layer_energies, layer_energy_share


def random_states(seed: int, layers: int, counts: list[int], slots: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, len(counts), slots, d)
    student = torch.randn(shape, generator=generator, dtype=torch.float64)
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64)
    return student, teacher, torch.arange(slots) < torch.tensor(counts)[:, None]


def total(terms: FlowTerms) -> Tensor:
    """Every term with its own weight, so that a gradient cannot cancel."""
    parts = torch.cat(terms[:3])
    return parts @ torch.linspace(0.3, 1.1, len(parts), dtype=parts.dtype)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    layers=st.integers(1, 3),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    d=st.integers(1, 4),
)
def test_equals_reference(seed: int, layers: int, counts: list[int], d: int) -> None:
    student, teacher, valid = random_states(seed, layers, counts, 5, d)
    student.requires_grad_()
    terms = flow_terms(student, teacher, valid)
    want = reference.flow(student, teacher, valid)
    for got, expected in zip(terms[:3], want[:3], strict=True):
        torch.testing.assert_close(got, expected)
    assert int(terms.samples) == want[3]
    if want[3]:
        (got_grad,) = torch.autograd.grad(total(terms), student)
        (want_grad,) = torch.autograd.grad(total(FlowTerms(*want[:3], terms.samples)), student)
        torch.testing.assert_close(got_grad, want_grad)


def test_a_gap_in_the_valid_slots_breaks_the_trajectory() -> None:
    student, teacher, _ = random_states(3, 2, [6, 6], 6, 3)
    valid = torch.tensor([[True, True, False, True, True, True], [True, False, True, False, True, False]])
    terms = flow_terms(student, teacher, valid)
    for got, expected in zip(terms[:3], reference.flow(student, teacher, valid)[:3], strict=True):
        torch.testing.assert_close(got, expected)
    assert int(terms.samples) == 1


def test_hand_computed() -> None:
    # the student turns left by 90 degrees, the teacher goes straight on; the second layers are equal
    turn = [[0.0, 0.0], [2.0, 0.0], [2.0, 3.0]]
    straight = [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]
    student = torch.tensor([[turn], [straight]], dtype=torch.float64)
    teacher = torch.tensor([[straight], [straight]], dtype=torch.float64)
    terms = flow_terms(student, teacher, torch.ones(1, 3, dtype=torch.bool))
    # layer 1: cosines 1 and 0; Gram matrices I and all ones: a gap of 2 over (m-1)^2 = 4
    torch.testing.assert_close(terms.direction, torch.tensor([0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(terms.geometry, torch.tensor([0.5, 0.0], dtype=torch.float64))
    # C_S = [[1, 1], [0, 0]] against all ones
    torch.testing.assert_close(terms.adjacent, torch.tensor([0.5], dtype=torch.float64))
    assert float(flow_loss(terms, adjacent=False)) == pytest.approx(0.25)
    assert float(flow_loss(terms)) == pytest.approx(0.25 / 2 + 0.5 / 2)
    assert float(flow_loss(terms, local="direction")) == pytest.approx(0.25 / 2 + 0.5 / 2)
    assert float(flow_loss(terms, adjacent=False, local="geometry")) == pytest.approx(0.25)


def test_flow_loss_weights() -> None:
    terms = FlowTerms(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 9.0]), torch.tensor([7.0]), torch.tensor(1))
    assert float(flow_loss(terms, adjacent=False)) == 4.5
    assert float(flow_loss(terms, adjacent=False, local="direction")) == 2
    assert float(flow_loss(terms, adjacent=False, local="geometry")) == 7
    assert float(flow_loss(terms)) == 4.5 / 2 + 7 / 2
    assert float(flow_loss(terms, local="direction")) == 2 / 2 + 7 / 2
    assert float(flow_loss(terms, local="half-direction")) == 2 / 4 + 7 / 2
    assert float(flow_loss(terms, local="half-geometry")) == 7 / 4 + 7 / 2
    with pytest.raises(ValueError, match="local"):
        flow_loss(terms, local="gram")  # type: ignore[arg-type]


@pytest.mark.parametrize(("chosen", "pairs"), [([2], [1]), ([1, 3], [0, 2]), ([1, 2, 4], [0, 1]), ([4], [])])
def test_chosen_blocks_are_related_to_their_very_next_ones(chosen: list[int], pairs: list[int]) -> None:
    student, teacher, valid = random_states(7, 4, [5, 2, 4], 5, 3)
    captured = with_next(chosen, 4)
    rows = [block - 1 for block in captured]
    student = student[rows].requires_grad_()
    terms = terms_of_blocks(flow_terms(student, teacher[rows], valid), captured, chosen)
    whole = torch.zeros(4, *student.shape[1:], dtype=torch.float64)
    whole[rows] = student
    direction, geometry, adjacent, _ = reference.flow(whole, teacher, valid)
    own = [block - 1 for block in chosen]
    want = FlowTerms(direction[own], geometry[own], adjacent[pairs], terms.samples)
    for got, expected in zip(terms[:3], want[:3], strict=True):
        torch.testing.assert_close(got, expected)
    grads = (torch.autograd.grad(total(x), student, retain_graph=True)[0] for x in (terms, want))
    torch.testing.assert_close(*grads)


def test_opposite_directions_cost_two() -> None:
    student, _, valid = random_states(0, 1, [4], 4, 3)
    terms = flow_terms(student, -student, valid)
    torch.testing.assert_close(terms.direction, torch.full((1,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(terms.geometry, torch.zeros(1, dtype=torch.float64))


def test_one_layer_has_no_neighbour() -> None:
    student, teacher, valid = random_states(0, 1, [4], 4, 3)
    terms = flow_terms(student, teacher, valid)
    assert terms.adjacent.shape == (0,)
    torch.testing.assert_close(flow_loss(terms), flow_loss(terms, adjacent=False) / 2)


@pytest.mark.parametrize("counts", [[0, 1, 0], [1], []])
@pytest.mark.parametrize("slots", [1, 4])
def test_no_transition_is_zero_with_a_gradient(counts: list[int], slots: int) -> None:
    student, teacher, valid = random_states(0, 2, counts, slots, 3)
    student.requires_grad_()
    terms = flow_terms(student, teacher, valid.view(len(counts), slots))
    loss = flow_loss(terms)
    loss.backward()
    assert int(terms.samples) == 0
    assert float(loss.detach()) == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_samples_with_fewer_than_two_positions_are_not_counted() -> None:
    student, teacher, valid = random_states(5, 2, [0, 1, 2, 5], 5, 3)
    terms, alone = flow_terms(student, teacher, valid), flow_terms(student[:, 2:], teacher[:, 2:], valid[2:])
    assert int(terms.samples) == 2
    torch.testing.assert_close(terms, alone)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), counts=st.lists(st.integers(2, 6), min_size=1, max_size=4))
def test_padded_batch_equals_samples_one_by_one(seed: int, counts: list[int]) -> None:
    student, teacher, valid = random_states(seed, 3, counts, 8, 4)
    student[:, ~valid] = math.nan  # padding is never read
    teacher[:, ~valid] = math.nan
    batched = student.clone().requires_grad_()
    loss = flow_loss(flow_terms(batched, teacher, valid))
    loss.backward()
    singles = student.clone().requires_grad_()
    parts = [
        flow_loss(flow_terms(singles[:, b : b + 1, :n], teacher[:, b : b + 1, :n], valid[b : b + 1, :n]))
        for b, n in enumerate(counts)
    ]
    torch.stack(parts).mean().backward()
    torch.testing.assert_close(loss, torch.stack(parts).mean())
    torch.testing.assert_close(batched.grad, singles.grad)
    assert batched.grad is not None
    assert not batched.grad[:, ~valid].any()


def test_gradcheck() -> None:
    student, teacher, valid = random_states(1, 2, [4, 2, 1], 4, 3)
    assert torch.autograd.gradcheck(lambda s: flow_terms(s, teacher, valid)[:3], student.requires_grad_())


def test_the_gradient_goes_to_the_student_only() -> None:
    student, teacher, valid = random_states(1, 2, [4], 4, 3)
    student.requires_grad_()
    teacher.requires_grad_()
    flow_loss(flow_terms(student, teacher, valid)).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_a_transition_of_length_zero() -> None:
    student, teacher, valid = random_states(2, 2, [5], 5, 3)
    student[:, :, 2] = student[:, :, 1]
    teacher[0, :, 4] = teacher[0, :, 3]
    student.requires_grad_()
    terms = flow_terms(student, teacher, valid)
    for got, expected in zip(terms[:3], reference.flow(student, teacher, valid)[:3], strict=True):
        torch.testing.assert_close(got, expected)
    total(terms).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 100  # finite, and not of the order 1 / eps


def test_a_transition_whose_square_is_no_float32_has_its_direction_and_gradient() -> None:
    student, teacher, valid = random_states(5, 2, [4, 3], 4, 3)
    student[0] *= 2.0**80  # a layer of transitions around 1e24
    large = student.float().requires_grad_()
    student.requires_grad_()
    terms, want = flow_terms(large, teacher.float(), valid), flow_terms(student, teacher, valid)
    for got, expected in zip(terms[:3], want[:3], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    (got_grad,) = torch.autograd.grad(total(terms), large)
    (want_grad,) = torch.autograd.grad(total(want), student)
    torch.testing.assert_close(got_grad.double() * 2.0**80, want_grad * 2.0**80, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float32_inside(dtype: torch.dtype) -> None:
    student, teacher, valid = random_states(4, 3, [6, 4], 6, 8)
    student, teacher = student.to(dtype), teacher.to(dtype)
    terms = flow_terms(student, teacher, valid)
    exact = flow_terms(student.double(), teacher.double(), valid)
    assert terms.direction.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(flow_terms(student, teacher, valid), terms)
    for got, expected in zip(terms[:3], exact[:3], strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_refused_shapes() -> None:
    student, teacher, valid = random_states(0, 2, [4, 3], 4, 3)
    for s, t, v in [
        (student, teacher[:, :, :, :2], valid),
        (student[0], teacher[0], valid),
        (student[:0], teacher[:0], valid),
        (student, teacher, valid[:1]),
        (student, teacher, valid.long()),
    ]:
        with pytest.raises(ValueError, match="must"):
            flow_terms(s, t, v)


VALID = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])


def test_kinds_are_the_terms_of_the_flow() -> None:
    student, teacher = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = flow_terms(student, teacher, VALID)
    torch.testing.assert_close(layer_energies(student, teacher, VALID, "direction"), terms.direction)
    torch.testing.assert_close(layer_energies(student, teacher, VALID, "geometry"), terms.geometry)
    torch.testing.assert_close(layer_energies(student, teacher, VALID), (terms.direction + terms.geometry) / 2)


def test_transition_energy_is_the_students_squared_step() -> None:
    student, teacher = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = []
    for layer in student:
        first = sum(float((layer[0, i + 1] - layer[0, i]).square().sum()) for i in range(3)) / 3
        second = float((layer[1, 1] - layer[1, 0]).square().sum())
        want.append((first + second) / 2)
    got = layer_energies(student, teacher, VALID, "transition")
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def test_unknown_kind_is_refused() -> None:
    states = torch.randn(2, 3, 4, 5)
    with pytest.raises(ValueError, match="transition"):
        layer_energies(states, states, VALID, "speed")  # type: ignore[arg-type]


def test_share_and_entropy_by_hand() -> None:
    share = layer_energy_share(torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64))
    assert share.tolist() == [0.25, 0.75, 0.0]
    assert float(entropy(share)) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert float(entropy(torch.tensor([0.0, 1.0]))) == 0
    assert float(entropy(torch.full((28,), 1 / 28))) == pytest.approx(math.log(28))


@settings(max_examples=50)
@given(energy=st.lists(st.floats(0, 1e300), min_size=1, max_size=40).filter(any))
def test_share_sums_to_one_and_entropy_is_bounded(energy: list[float]) -> None:
    share = layer_energy_share(torch.tensor(energy, dtype=torch.float64))
    assert float(share.sum()) == pytest.approx(1)
    assert (share >= 0).all()
    assert -1e-12 <= float(entropy(share)) <= math.log(len(energy)) + 1e-12


@pytest.mark.parametrize("energy", [[0.0, 0.0], [1.0, -1e-9], [1.0, math.nan], [math.inf, 1.0], []])
def test_refused_energies(energy: list[float]) -> None:
    with pytest.raises(ValueError, match="finite, not negative and not all zero"):
        layer_energy_share(torch.tensor(energy))


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_means_are_the_terms_of_the_loss() -> None:
    student, teacher = states(2, 3, 1, 6, 5)
    walk = measure_rollout(student[:, 0], teacher[:, 0])
    terms = flow_terms(student, teacher, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(walk.direction.mean(1), terms.direction)
    torch.testing.assert_close(walk.geometry.mean(1), terms.geometry)
    torch.testing.assert_close(walk.adjacent, terms.adjacent)
    energy = layer_energies(student, teacher, torch.ones(1, 6, dtype=torch.bool), "transition")
    torch.testing.assert_close(walk.squares[0].mean(1), energy)


def unbiased_hsic(X: Tensor, Y: Tensor) -> float:
    """Song et al. (2012), eq. 5, of linear kernels."""
    m = len(X)
    K, Q = (Z @ Z.T * (1 - torch.eye(m)) for Z in (X, Y))
    one = torch.ones(m, dtype=X.dtype)
    parts = (K @ Q).trace() + one @ K @ one * (one @ Q @ one) / ((m - 1) * (m - 2)) - 2 / (m - 2) * (one @ K @ Q @ one)
    return float(parts / (m * (m - 3)))


def test_hsic_is_the_unbiased_estimator() -> None:
    student, teacher = states(2, 1, 9, 4, seed=1)
    hsic = measure_rollout(student, teacher).hsic
    assert hsic is not None
    pairs = ((student, teacher), (student, student), (teacher, teacher))
    assert hsic[:, 0].tolist() == pytest.approx([unbiased_hsic(a[0], b[0]) for a, b in pairs])


def test_cka_of_states_that_share_nothing_is_near_zero_however_wide_they_are() -> None:
    student, teacher = states(2, 40, 16, 512, seed=2)  # forty layers as forty draws
    hsic = measure_rollout(student, teacher).hsic
    assert hsic is not None
    sums = hsic.sum(1)
    assert abs(float(sums[0] / (sums[1] * sums[2]).sqrt())) < 0.1


def test_states_moved_turned_and_scaled_have_a_cka_of_one() -> None:
    student = states(1, 8, 5, seed=3)
    turn = torch.linalg.qr(states(5, 5, seed=4)).Q
    hsic = measure_rollout(student, 3 * student @ turn + 7).hsic
    assert hsic is not None
    assert float(hsic[0] / (hsic[1] * hsic[2]).sqrt()) == pytest.approx(1)
    assert measure_rollout(student[:, :3], student[:, :3]).hsic is None


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_of_orthogonal_directions_is_their_number(rank: int) -> None:
    directions = torch.eye(rank, 7, dtype=torch.float64).repeat(3, 1)
    assert float(effective_rank(directions @ directions.T)) == pytest.approx(rank)


def test_effective_rank_by_hand_and_of_nothing() -> None:
    gram = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    want = math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert effective_rank(torch.stack([gram, torch.zeros_like(gram)])).tolist() == pytest.approx([want, 0])


@pytest.mark.parametrize(("student", "teacher"), [((1, 1, 3), (1, 1, 3)), ((1, 4, 3), (1, 3, 3)), ((4, 3), (4, 3))])
def test_shapes_that_do_not_fit_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="m >= 2"):
        measure_rollout(states(*student), states(*teacher))
