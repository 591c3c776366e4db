"""Stage 1 of OPRD-Bridge against singular values and least squares, and the loss through a bridge."""

import pytest
import torch
from torch import Tensor

from phfcli.core.losses.pointwise import PairMoments, Projector, cosines_by_rank, fit_student, principal_directions
from phfcli.losses import pointwise_loss

K, N, D_S, D_T = 2, 400, 6, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """States that share a common part, neither of mean zero."""
    student = draw(K, N, D_S) * torch.linspace(3, 0.5, D_S) + 2
    return student, student @ draw(K, D_S, D_T, seed=1) + noise * draw(K, N, D_T, seed=2) - 1


def test_moments_add_up() -> None:
    student, teacher = pairs()
    whole = PairMoments.of(student, teacher)
    parts = [PairMoments.of(student[:, a:b], teacher[:, a:b]) for a, b in ((0, 7), (7, 7), (7, N))]
    added = parts[0] + parts[1] + parts[2]
    assert added.count == whole.count == N
    for name in PairMoments.__dataclass_fields__:
        torch.testing.assert_close(getattr(added, name), getattr(whole, name))


def test_principal_directions_are_the_singular_vectors() -> None:
    student, teacher = pairs()
    projector, shares = principal_directions(PairMoments.of(student, teacher))
    for k in range(K):
        centred = teacher[k] - teacher[k].mean(0)
        _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
        torch.testing.assert_close(shares[k], values.square() / values.square().sum())
        torch.testing.assert_close(projector.weight[k].abs(), vectors.abs())
        assert all(row[row.abs().argmax()] > 0 for row in projector.weight[k])
        torch.testing.assert_close(projector.mean[k], teacher[k].mean(0))


def test_the_students_map_is_the_ridge_least_squares_solution() -> None:
    student, teacher = pairs()
    target, _ = principal_directions(PairMoments.of(student, teacher))
    got = fit_student(PairMoments.of(student, teacher), target)
    for k in range(K):
        own, wanted = student[k] - student[k].mean(0), target(teacher)[k]
        ridge = (1e-3 * own.square().mean(0)).sqrt().diag() * N**0.5  # as further rows whose target is zero
        rows, zeros = torch.cat([own, ridge]), torch.zeros(D_S, D_T, dtype=torch.float64)
        want = torch.linalg.lstsq(rows, torch.cat([wanted, zeros])).solution
        torch.testing.assert_close(got.weight[k], want.T)


def test_lower_ranks_are_the_first_rows_of_higher_ones() -> None:
    moments = PairMoments.of(*pairs())
    whole, _ = principal_directions(moments)
    low = Projector(whole.weight[:, :2], whole.mean)
    torch.testing.assert_close(fit_student(moments, low).weight, fit_student(moments, whole).weight[:, :2])


def test_states_in_a_linear_relation_become_the_same_and_others_do_not() -> None:
    for noise, low, high in ((0.0, 0.9999, 1.0), (30.0, 0.0, 0.7)):
        student, teacher = pairs(noise)
        moments = PairMoments.of(student, teacher)
        target, _ = principal_directions(moments)
        cosine = cosines_by_rank(fit_student(moments, target)(student), target(teacher))[..., -1].mean()
        assert low < cosine <= high


def test_cosines_by_rank_are_those_of_the_first_coordinates() -> None:
    one, other = draw(3, 4), draw(3, 4, seed=1)
    got = cosines_by_rank(one, other)
    for rank in range(1, 5):
        want = torch.nn.functional.cosine_similarity(one[:, :rank], other[:, :rank], dim=-1)
        torch.testing.assert_close(got[:, rank - 1], want)


def test_a_student_that_never_varies_gets_a_finite_map() -> None:
    student, teacher = torch.ones(K, 9, D_S), draw(K, 9, D_T)
    moments = PairMoments.of(student, teacher)
    assert fit_student(moments, principal_directions(moments)[0]).weight.isfinite().all()


@pytest.mark.parametrize("normalized", [False, True])
def test_the_loss_through_a_bridge_and_where_its_gradient_flows(normalized: bool) -> None:
    own, other = Projector(draw(K, 3, D_S), draw(K, D_S)), Projector(draw(K, 3, D_T), draw(K, D_T))
    student, teacher = draw(K, 2, 4, D_S, seed=3).requires_grad_(), draw(K, 2, 4, D_T, seed=4).requires_grad_()
    valid = torch.tensor([[True] * 4, [True, False, False, False]])

    def loss(states: Tensor) -> Tensor:
        return pointwise_loss(own(states), other(teacher), valid, normalized).loss

    slow = torch.zeros((), dtype=torch.float64)
    for b, count in ((0, 4), (1, 1)):
        for k in range(K):
            gaps, powers = [], []
            for i in range(count):
                mine = own.weight[k] @ (student[k, b, i] - own.mean[k])
                its = other.weight[k] @ (teacher[k, b, i] - other.mean[k])
                gaps.append((mine - its).square().mean())
                powers.append(its.square().mean())
            error = torch.stack(gaps).mean()
            slow = slow + (error / torch.stack(powers).mean() if normalized else error) / K / 2
    torch.testing.assert_close(loss(student), slow)
    assert torch.autograd.gradcheck(loss, student)
    loss(student).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
