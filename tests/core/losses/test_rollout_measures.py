"""The measures of one rollout: what they are means of, plain references, and limits that are known."""

import math

import pytest
import torch
from torch import Tensor

from phfcli.core.losses.flow import effective_rank, measure_rollout
from phfcli.losses import flow_terms, layer_energies


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
