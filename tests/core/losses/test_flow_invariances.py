"""Proposition 1 of the paper on random trajectories, with the pointwise loss as the control that must change."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phfcli.losses import flow_terms, pointwise_loss

VALID = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
SHAPE = (3, 2, 6, 5)  # L, B, m, d

seeds = st.integers(0, 2**32)


def draw(seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    return student, teacher, generator


def rotation(generator: torch.Generator, count: int) -> Tensor:
    """[count, d, d] random orthogonal matrices, reflections among them."""
    return torch.linalg.qr(torch.randn(count, SHAPE[3], SHAPE[3], generator=generator, dtype=torch.float64)).Q


def rescaled(states: Tensor, generator: torch.Generator) -> Tensor:
    """The trajectory whose every transition has been multiplied by its own factor of 0.1 to 10."""
    moves = states.diff(dim=2)
    factors = 10 ** (2 * torch.rand(*moves.shape[:3], 1, generator=generator, dtype=torch.float64) - 1)
    return torch.cat((states[:, :, :1], states[:, :, :1] + (factors * moves).cumsum(2)), dim=2)


def states_differ(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    return abs(float(pointwise_loss(*before, VALID).loss - pointwise_loss(*after, VALID).loss)) > 1e-6


@settings(max_examples=25)
@given(seed=seeds)
def test_offsets_change_nothing(seed: int) -> None:
    student, teacher, generator = draw(seed)
    offsets = 5 * torch.randn(2, SHAPE[0], SHAPE[1], 1, SHAPE[3], generator=generator, dtype=torch.float64)
    moved = (student + offsets[0], teacher + offsets[1])
    torch.testing.assert_close(flow_terms(*moved, VALID), flow_terms(student, teacher, VALID))
    assert states_differ((student, teacher), moved)


@settings(max_examples=25)
@given(seed=seeds)
def test_positive_rescaling_of_transitions_changes_nothing(seed: int) -> None:
    student, teacher, generator = draw(seed)
    scaled = (rescaled(student, generator), rescaled(teacher, generator))
    before, after = flow_terms(student, teacher, VALID), flow_terms(*scaled, VALID)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)  # up to eps
    assert states_differ((student, teacher), scaled)


@settings(max_examples=25)
@given(seed=seeds)
def test_geometry_ignores_independent_orthogonal_maps(seed: int) -> None:
    student, teacher, generator = draw(seed)
    R_S, R_T = rotation(generator, SHAPE[0])[:, None], rotation(generator, SHAPE[0])[:, None]
    turned = (student @ R_S, teacher @ R_T)
    before, after = flow_terms(student, teacher, VALID), flow_terms(*turned, VALID)
    torch.testing.assert_close(after.geometry, before.geometry)
    assert not torch.allclose(after.direction, before.direction, atol=1e-6)
    assert not torch.allclose(after.adjacent, before.adjacent, atol=1e-6)  # each layer was turned differently
    assert states_differ((student, teacher), turned)


@settings(max_examples=25)
@given(seed=seeds)
def test_all_terms_ignore_a_common_orthogonal_map(seed: int) -> None:
    student, teacher, generator = draw(seed)
    R = rotation(generator, 1)[0]
    torch.testing.assert_close(flow_terms(student @ R, teacher @ R, VALID), flow_terms(student, teacher, VALID))
    # the pointwise loss ignores a map common to both as well; turning the student alone changes it, and L_dir
    assert not states_differ((student, teacher), (student @ R, teacher @ R))
    assert states_differ((student, teacher), (student @ R, teacher))


@settings(max_examples=25)
@given(seed=seeds)
def test_negative_rescaling_does_change_the_flow(seed: int) -> None:
    student, teacher, _ = draw(seed)
    before, after = flow_terms(student, teacher, VALID), flow_terms(-student, teacher, VALID)
    torch.testing.assert_close(after.direction, 2 - before.direction)
    torch.testing.assert_close(after.geometry, before.geometry)
