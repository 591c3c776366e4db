"""Intervals with training seeds as the unit, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from phfcli.core.analysis.differences import seed_difference


def test_an_interval_is_students() -> None:
    eight = [0.01, 0.02, 0.03, 0.0, 0.01, 0.02, 0.03, 0.0]  # mean 0.015, deviation 0.01195
    got = seed_difference(eight)
    assert got.low == pytest.approx(0.015 - 2.3646 * 0.0119523 / 8**0.5, abs=1e-6)
    assert got.p_value == pytest.approx(float(stats.ttest_1samp(eight, 0).pvalue))


def test_one_seed_has_no_interval() -> None:
    got = seed_difference([0.1])
    assert (got.difference, got.stderr, got.low, got.high, got.p_value) == (0.1, None, None, None, None)
    assert got.seeds_for(0.03) is None


def test_seeds_that_agree_leave_no_doubt() -> None:
    assert seed_difference([0.1, 0.1]).p_value == 0.0
    assert seed_difference([0.0, 0.0]).p_value == 1.0


def test_how_many_seeds_a_narrower_interval_takes() -> None:
    """Deviation 0.04: t(n - 1) * 0.04 / sqrt(n) is 0.0307 for 9 seeds and 0.0286 for 10."""
    values = 0.04 * np.array([1.0, -1.0, 1.0, -1.0]) / (4 / 3) ** 0.5
    assert seed_difference(values.tolist()).seeds_for(0.03) == 10


def test_a_null_difference_is_rejected_in_a_twentieth_of_cases() -> None:
    """Four seeds whose spread is that of the training, which a test over pooled samples would not see."""
    draws = np.random.default_rng(0).normal(0, 0.03, (2000, 4))
    rejected = np.mean([(seed_difference(own.tolist()).p_value or 0) < 0.05 for own in draws])
    assert 0.04 < rejected < 0.06
