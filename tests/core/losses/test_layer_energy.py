"""Layer energies, their shares and the entropy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phfcli.losses import entropy, flow_terms, layer_energies, layer_energy_share

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
