"""Closed forms, brute force and simulations for the statistics of scores."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phfcli.core.analysis.differences import holm, paired_difference, pool, seed_difference, suite_difference
from phfcli.core.errors import UserError
from phfcli.core.evaluation.scores import average, majority, pass_at_k, pass_at_ks

ragged = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=6), min_size=1, max_size=12)


def _run(scores: Sequence[Sequence[float]]) -> dict[str, Sequence[float]]:
    return {f"p{i}": samples for i, samples in enumerate(scores)}


def test_average_closed_form() -> None:
    result = average([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert result.average == pytest.approx(0.5)
    assert result.stderr == pytest.approx(0.5 / math.sqrt(3))
    assert result.sampling_stderr == pytest.approx(math.sqrt(1 / 3 / 4) / 3)
    assert result.problems == 3


def test_average_of_ragged_scores_weighs_problems_alike() -> None:
    assert average([[1], [0, 0, 0]]).average == 0.5


def test_average_says_what_it_cannot_know() -> None:
    assert average([[1, 0]]).stderr is None
    assert average([[1, 0]]).sampling_stderr == pytest.approx(0.5)
    assert average([[1], [0]]).sampling_stderr is None
    for empty in ([], [[]], [[1], []]):
        with pytest.raises(UserError, match="at least one"):
            average(empty)


@given(ragged, st.randoms(use_true_random=False))
def test_average_ignores_the_order_of_problems_and_samples(scores: list[list[float]], rng: Callable[..., None]) -> None:
    shuffled = [rng.sample(samples, len(samples)) for samples in rng.sample(scores, len(scores))]  # type: ignore[attr-defined]
    assert average(shuffled).average == pytest.approx(average(scores).average)
    assert average(shuffled).stderr == pytest.approx(average(scores).stderr)


def test_the_two_errors_are_those_of_a_simulation() -> None:
    """30 problems x 12 samples: problems drawn anew give stderr, samples drawn anew give sampling_stderr."""
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, 30)
    drawn = [(rng.random((30, 12)) < rng.beta(0.5, 0.5, (30, 1))).astype(float) for _ in range(800)]
    fixed = [(rng.random((30, 12)) < chance[:, None]).astype(float) for _ in range(800)]
    spread_drawn = np.std([run.mean() for run in drawn])
    spread_fixed = np.std([run.mean() for run in fixed])
    told_drawn = np.mean([average(run.tolist()).stderr for run in drawn[:100]])
    told_fixed = np.mean([average(run.tolist()).sampling_stderr for run in fixed[:100]])
    assert told_drawn == pytest.approx(spread_drawn, rel=0.1)
    assert told_fixed == pytest.approx(spread_fixed, rel=0.1)
    assert spread_drawn > 3 * spread_fixed


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [1] * correct + [0] * (n - correct)
        draws = [max(draw) for draw in itertools.combinations(samples, k)]
        assert pass_at_k([correct], n, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_averages_over_problems_and_names_its_ks() -> None:
    assert pass_at_k([0, 12], 12, 4) == 0.5
    assert list(pass_at_ks([3], 12)) == [1, 2, 4, 8, 12]
    assert list(pass_at_ks([3], 8)) == [1, 2, 4, 8]
    assert list(pass_at_ks([1], 1)) == [1]
    assert pass_at_ks([3, 6], 12)[1] == pytest.approx((3 + 6) / 24)
    assert pass_at_ks([0, 1], 12)[12] == 0.5


@given(st.lists(st.integers(0, 16), min_size=1, max_size=20))
def test_pass_at_k_grows_with_k(correct: list[int]) -> None:
    values = list(pass_at_ks(correct, 16).values())
    assert all(0 <= a <= b + 1e-12 <= 1 + 2e-12 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("correct", "n", "k"), [([1], 4, 5), ([1], 4, 0), ([], 4, 1), ([5], 4, 1), ([-1], 4, 1)])
def test_pass_at_k_refuses_what_has_no_value(correct: list[int], n: int, k: int) -> None:
    with pytest.raises(UserError, match="pass@"):
        pass_at_k(correct, n, k)


def test_majority() -> None:
    assert majority([[0, 0, 1]], [{0}]) == 1
    assert majority([[0, 0, 1]], [{1}]) == 0
    assert majority([[0, 1]], [{1}]) == 0.5
    assert majority([[0, 1, 2]], [{0, 1}]) == pytest.approx(2 / 3)
    assert majority([[None, None, 1]], [{1}]) == 1
    assert majority([[None, None]], [{0}]) == 0
    assert majority([[0], [1]], [{0}, set()]) == 0.5
    with pytest.raises(UserError, match="at least one problem"):
        majority([], [])


def test_majority_expects_a_random_choice_among_ties() -> None:
    rng = np.random.default_rng(0)
    votes, correct = [0, 1, 1, 2, 2, 0, 3, None], {2}
    picks = [rng.choice([0, 1, 2]) in correct for _ in range(20_000)]
    assert majority([votes], [correct]) == pytest.approx(np.mean(picks), abs=0.02)


def test_paired_difference_closed_form() -> None:
    result = paired_difference(_run([[1, 1], [1, 0], [1, 1]]), _run([[0, 0], [0, 0], [0, 0]]))
    assert result.difference == pytest.approx(2.5 / 3)
    assert result.stderr == pytest.approx(np.std([1, 0.5, 1], ddof=1) / math.sqrt(3))
    assert result.p_value == 2 / 8  # only all plus and all minus are as far from zero
    assert result.problems == 3


def test_exact_p_value_is_the_enumeration() -> None:
    differences = [0.5, -0.25, 0.75, 0.0, 1.0]
    patterns = list(itertools.product((1, -1), repeat=5))
    far = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) >= 2.0 - 1e-9 for p in patterns]
    result = paired_difference(_run([[d] for d in differences]), _run([[0.0]] * 5))
    assert result.p_value == pytest.approx(sum(far) / len(far))


def test_random_flips_agree_with_the_enumeration() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.3, 1.0, 14)
    exact = paired_difference(_run([[d] for d in differences]), _run([[0.0]] * 14)).p_value
    # a fifteenth problem without a difference changes no sum, and takes the random path
    sampled = paired_difference(_run([[d] for d in [*differences, 0.0]]), _run([[0.0]] * 15)).p_value
    assert sampled == pytest.approx(exact, abs=0.02)


def test_equal_runs_do_not_differ() -> None:
    for problems, bounds in ((4, (-1, 1)), (40, (-0.088, 0.088))):  # four problems can show nothing; 1 - 0.025^(1/40)
        run = _run([[1, 0, 1]] * problems)
        result = paired_difference(run, run)
        assert (result.difference, result.stderr) == (0, 0)
        assert (result.low, result.high) == pytest.approx(bounds, abs=0.002)
        assert result.bound
        assert result.p_value == 1


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=24), st.integers(0, 5))
def test_the_interval_excludes_zero_exactly_where_the_test_rejects(counts: list[int], seed: int) -> None:
    result = paired_difference(_run([[c / 4] for c in counts]), _run([[0.0]] * len(counts)), seed)
    assert result.low is not None
    assert result.high is not None
    assert (result.low > 0 or result.high < 0) == (result.p_value < 0.05)
    assert result.low <= result.difference <= result.high


def test_the_interval_holds_the_differences_that_the_test_does_not_reject() -> None:
    """Brute force: every supposed difference is taken off, and tested."""
    differences = [0.5, -0.25, 0.75, 0.0, 1.0, 0.25, 0.6]
    result = paired_difference(_run([[d] for d in differences]), _run([[0.0]] * 7))
    assert result.low is not None
    assert result.high is not None
    for supposed in np.linspace(-0.9, 0.95, 75) + 0.0011:
        left = paired_difference(_run([[d - supposed] for d in differences]), _run([[0.0]] * 7)).p_value
        assert (left >= 0.05) == (result.low <= supposed <= result.high)


def test_few_problems_can_show_nothing_and_say_so() -> None:
    result = paired_difference(_run([[1.0]] * 5), _run([[0.0]] * 5))
    assert result.p_value == result.p_floor == 2 / 2**5
    assert (result.low, result.high) == (-1, 1)
    unbounded = paired_difference(_run([[70.0]] * 5), _run([[0.0]] * 5), most=None)
    assert (unbounded.low, unbounded.high) == (None, None)
    six = paired_difference(_run([[1.0]] * 6), _run([[0.0]] * 6))
    assert (six.p_value, six.low, six.high) == (2 / 2**6, 1, 1)
    assert paired_difference(_run([[1.0]] * 40), _run([[0.0]] * 40)).p_floor == 1 / 10_001


def test_a_single_problem_has_no_interval() -> None:
    result = paired_difference({"a": [1]}, {"a": [0]})
    assert (result.difference, result.stderr, result.low, result.high, result.p_value) == (1, None, None, None, 1)


def test_only_shared_problems_count() -> None:
    result = paired_difference({"a": [1], "b": [1], "c": [0]}, {"b": [0], "c": [0], "d": [1]})
    assert (result.difference, result.problems) == (0.5, 2)
    with pytest.raises(UserError, match="share no problem"):
        paired_difference({"a": [1]}, {"b": [1]})


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20), st.integers(0, 3))
def test_the_difference_is_antisymmetric_and_blind_to_order(counts: list[tuple[int, int]], seed: int) -> None:
    a, b = (_run([[1.0] * pair[side] + [0.0] * (4 - pair[side]) for pair in counts]) for side in (0, 1))
    forward, back = paired_difference(a, b, seed), paired_difference(b, a, seed)
    assert back.difference == pytest.approx(-forward.difference)
    assert (back.low, back.high) == pytest.approx((-(forward.high or 0), -(forward.low or 0)))
    assert (back.stderr, back.p_value) == (forward.stderr, forward.p_value)
    assert paired_difference(dict(reversed(a.items())), b, seed) == forward


def test_the_seed_is_the_only_randomness() -> None:
    rng = np.random.default_rng(1)
    a, b = (_run(rng.random((30, 4)).tolist()) for _ in range(2))
    assert paired_difference(a, b, seed=5) == paired_difference(a, b, seed=5)
    assert paired_difference(a, b, seed=5) != paired_difference(a, b, seed=6)


def test_the_paired_test_keeps_its_size_under_the_null() -> None:
    """300 pairs of runs of the same model, 12 problems x 4 samples: about one in twenty looks different at 5%."""
    rng = np.random.default_rng(7)
    rejected = 0
    for _ in range(300):
        chance = rng.random((12, 1))
        a, b = (_run((rng.random((12, 4)) < chance).astype(float).tolist()) for _ in range(2))
        rejected += paired_difference(a, b).p_value <= 0.05
    assert 0.01 <= rejected / 300 <= 0.10


@pytest.mark.slow
def test_the_random_flips_keep_their_size_under_the_null() -> None:
    rng = np.random.default_rng(8)
    rejected = 0
    for _ in range(300):
        chance = rng.random((30, 1))
        a, b = (_run((rng.random((30, 4)) < chance).astype(float).tolist()) for _ in range(2))
        rejected += paired_difference(a, b).p_value <= 0.05
    assert 0.01 <= rejected / 300 <= 0.10


def test_the_interval_covers() -> None:
    """The mean over problems of a true difference of 0.1 lies inside most intervals (95% for many problems)."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(80):
        chance = rng.uniform(0.1, 0.8, (30, 1))
        a = (rng.random((30, 8)) < chance + 0.1).astype(float)
        b = (rng.random((30, 8)) < chance).astype(float)
        result = paired_difference(_run(a.tolist()), _run(b.tolist()))
        assert result.low is not None
        assert result.high is not None
        covered += result.low <= 0.1 <= result.high
    assert 0.86 <= covered / 80 <= 1.0


def test_a_suite_weighs_its_benchmarks_alike() -> None:
    small = ({"a": [1.0], "b": [0.0]}, {"a": [0.0], "b": [0.0]})  # + 0.5
    large = ({f"p{i}": [1.0] for i in range(6)}, {f"p{i}": [float(i % 2)] for i in range(6)})  # + 0.5
    none = ({f"q{i}": [1.0, 0.0] for i in range(4)}, {f"q{i}": [0.0, 1.0] for i in range(4)})  # 0
    told = suite_difference([small, large, none])
    assert told.difference == pytest.approx(1 / 3)
    errors = [paired_difference(*bench).stderr or 0 for bench in (small, large, none)]
    assert told.stderr == pytest.approx(math.hypot(*errors) / 3)
    assert told.problems == 12
    signs = itertools.product((-1, 1), repeat=4)  # of the four problems that differ: 0.5, and three times 1/6
    parts = (0.5, 1 / 6, 1 / 6, 1 / 6)
    extreme = [abs(sum(s * p for s, p in zip(row, parts, strict=True))) >= 1 - 1e-9 for row in signs]
    assert told.p_value == pytest.approx(sum(extreme) / 16)
    assert suite_difference([large]) == paired_difference(*large)


@pytest.mark.parametrize(("problems", "errors"), [(8, 3.27), (15, 3.01), (30, 2.90), (60, 2.85)])
def test_what_a_comparison_could_have_shown(problems: int, errors: float) -> None:
    """The factors are those of the noncentral t, at which the power is 80%."""
    told = paired_difference(
        {f"p{i}": [i / problems] for i in range(problems)}, {f"p{i}": [0.0] for i in range(problems)}
    )
    assert (told.detectable or 0) / (told.stderr or 1) == pytest.approx(errors, abs=0.006)
    same = {"a": [1.0], "b": [0.0]}
    assert paired_difference(same, same).detectable is None
    assert paired_difference({"a": [1.0]}, {"a": [0.0]}).detectable is None


@pytest.mark.parametrize(("seeds", "errors"), [(2, 16.3), (3, 5.65), (4, 4.26)])
def test_what_seeds_could_have_shown(seeds: int, errors: float) -> None:
    told = seed_difference([0.1 * index for index in range(seeds)])
    assert (told.detectable or 0) / (told.stderr or 1) == pytest.approx(errors, abs=0.04)


def test_problems_that_do_not_differ_show_nothing() -> None:
    """Of 15 problems 3 differ: the exchanges of three give no p below a quarter."""
    a = _run([[1.0]] * 3 + [[0.0]] * 12)
    told = paired_difference(a, _run([[0.0]] * 15))
    assert told.p_floor == 0.25
    assert told.p_value == pytest.approx(0.25, abs=0.02)
    assert told.detectable is None
    assert told.bound
    assert paired_difference(a, _run([[0.0]] * 15), most=None).low is None
    six = paired_difference(_run([[1.0]] * 6 + [[0.0]] * 9), _run([[0.0]] * 15))
    assert not six.bound
    assert (six.low or 0) > 0


def test_an_interval_of_mostly_equal_problems_covers() -> None:
    """15 problems, of which one in ten goes from never to half solved: five points of true difference."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(120):
        a = rng.binomial(12, np.where(rng.random(15) < 0.1, rng.random(15), 0.0)) / 12
        told = paired_difference(_run([[value] for value in a]), _run([[0.0]] * 15))
        covered += (told.low or 0) <= 0.05 <= (told.high or 0)
    assert covered / 120 >= 0.95  # 74% by the exchanges alone


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_each_p_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for p, own in zip(p_values, corrected, strict=True):
        assert p <= own <= min(1.0, p * len(p_values)) + 1e-12
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


def test_seeds_are_pooled_by_problem() -> None:
    assert pool([{"a": [1, 0], "b": [1]}, {"b": [0, 0, 0, 1], "a": [1]}, {"a": [0], "b": [0], "c": [1]}]) == {
        "a": [0.5, 1, 0],
        "b": [1, 0.25, 0],
    }
