"""Differences of two methods, over problems and over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from evaluations import evaluation
from scipy import stats

from phfcli.core.analysis.compare import Pair, compare
from phfcli.core.analysis.differences import common_variance, seed_difference, unpaired_difference
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import load_evaluations

Rows = Mapping[str, Sequence[int]]


def rows(right: int, problems: int = 8, n: int = 4) -> Rows:
    """The first so many samples of all problems together are right."""
    flat = [int(place < right) for place in range(problems * n)]
    return {f"p{i}": flat[i * n : (i + 1) * n] for i in range(problems)}


def write(folder: Path, objective: str, seeds: Mapping[int, Rows], **more: object) -> list[str]:
    for seed, own in seeds.items():
        config = {"objective": objective, "seed": seed}
        evaluation(folder / f"{objective}{seed}", own, config=config, **more)  # type: ignore[arg-type]
    return [str(folder / f"{objective}{seed}") for seed in seeds]


def pair_of(paths: list[str], bench: str = "aime", **more: str) -> Pair:
    [pair] = [p for p in compare(load_evaluations(paths, []), **more).pairs if p.bench == bench]  # type: ignore[arg-type]
    return pair


def test_two_seeds_on_each_side_are_the_unit(tmp_path: Path) -> None:
    paths = write(tmp_path, "opsd", {0: rows(8), 1: rows(10), 2: rows(9)})
    paths += write(tmp_path, "phf", {0: rows(12), 1: rows(15), 2: rows(12)})
    pair = pair_of(paths)
    by_seed = [(12 - 8) / 32, (15 - 10) / 32, (12 - 9) / 32]
    assert pair.measured.unit == "seeds"
    assert pair.result.difference == pytest.approx(sum(by_seed) / 3)
    assert pair.result.p_value == pytest.approx(float(stats.ttest_1samp(by_seed, 0).pvalue))
    told = pair.as_json()
    assert told["unit"] == "seeds"
    assert told["low"] == told["over_seeds"]["low"] != told["over_problems"]["low"]
    assert told["problems"] == 8
    assert {"difference", "stderr", "low", "high", "p_value", "problems"} <= told.keys()
    other = pair_of(paths, unit="problems")
    assert other.as_json()["low"] == told["over_problems"]["low"]
    assert other.result.difference == pytest.approx(pair.result.difference)


def test_other_seeds_on_each_side_are_two_groups(tmp_path: Path) -> None:
    paths = write(tmp_path, "opsd", {0: rows(8), 1: rows(10)}) + write(tmp_path, "phf", {5: rows(12), 6: rows(15)})
    told = pair_of(paths).measured.over_seeds
    assert told is not None
    assert not told.paired
    assert told.p_value == pytest.approx(float(stats.ttest_ind([12, 15], [8, 10], equal_var=False).pvalue))


def test_welchs_interval_is_scipys() -> None:
    a, b = [0.4, 0.5, 0.45, 0.61], [0.3, 0.31, 0.29]
    told, wanted = unpaired_difference(a, b), stats.ttest_ind(a, b, equal_var=False)
    bounds = wanted.confidence_interval(0.95)
    assert (told.low, told.high) == pytest.approx((bounds.low, bounds.high))
    assert told.p_value == pytest.approx(float(wanted.pvalue))


def test_one_variance_of_groups_by_hand_and_where_levene_speaks_against_it() -> None:
    assert common_variance([[1.0, 3.0], [2.0, 2.0, 5.0], [7.0]]) == (pytest.approx((2 + 6) / 3), 3)
    assert common_variance([[1.0], [2.0]]) is None
    assert common_variance([[0.0, 0.1, 0.2, 0.1, 0.0, 0.2], [0.0, 9.0, 1.0, 8.0, -7.0, 4.0]]) is None


def test_a_single_seed_leaves_problems_as_the_unit(tmp_path: Path) -> None:
    paths = write(tmp_path, "opsd", {0: rows(8), 1: rows(10)}) + write(tmp_path, "phf", {0: rows(12)})
    assert pair_of(paths).measured.unit == "problems"
    with pytest.raises(UserError, match="unit: seeds needs several seeds of each method, and phf0 has one"):
        pair_of(paths, unit="seeds")


def test_the_average_over_benchmarks_has_seeds_too(tmp_path: Path) -> None:
    paths = []
    for bench, shift in (("aime", 0), ("hmmt", 2)):
        paths = write(tmp_path, "opsd", {0: rows(8 + shift), 1: rows(10)}, bench=bench)
        paths += write(tmp_path, "phf", {0: rows(12), 1: rows(15)}, bench=bench)
    pair = pair_of(paths, "average")
    assert pair.result.difference == pytest.approx(((4 + 2) / 2 + (5 + 5) / 2) / 2 / 32)


def every(problems: int, own: Sequence[int]) -> Rows:
    return {f"p{i}": list(own) for i in range(problems)}


def kinds(pair: Pair) -> list[str]:
    return [finding.name for finding in pair.gain]


def test_more_problems_solved(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", every(10, [0, 0]) | {"q": [1, 1]})
    evaluation(tmp_path / "b", every(10, [1, 0]) | {"q": [1, 1]})
    pair = pair_of([str(tmp_path / "a"), str(tmp_path / "b")])
    assert kinds(pair) == ["more problems solved"]
    assert pair.gain[0].figures["pass@2"]["difference"] == pytest.approx(10 / 11)
    back = pair_of([str(tmp_path / "b"), str(tmp_path / "a")])
    assert kinds(back) == ["fewer problems solved"]


def test_surer_of_what_was_known_and_shorter(tmp_path: Path) -> None:
    """Each problem is right once in two samples, with two answers; then twice, with one."""
    before, after = every(10, [1, 0]), every(10, [1, 1])
    evaluation(tmp_path / "a", before, answers={p: ["7", "8"] for p in before}, tokens=40)
    evaluation(tmp_path / "b", after, answers={p: ["7", "07"] for p in after}, tokens=30)
    pair = pair_of([str(tmp_path / "a"), str(tmp_path / "b")])
    assert kinds(pair) == ["surer of what was known", "shorter"]
    assert pair.gain[0].figures["distinct answers"]["difference"] == -1
    assert "tokens -10.0, -10.0 to -10.0" in pair.gain[1].sentence


@pytest.mark.parametrize(("tokens", "named"), [(39, []), (38, ["shorter"]), (42, ["longer"]), (41, [])])
def test_a_change_that_is_too_small_to_matter_has_no_name(tmp_path: Path, tokens: int, named: list[str]) -> None:
    """Of 40 tokens 5% are 2, whatever narrow interval shows less."""
    for name, length in (("a", 40), ("b", tokens)):
        evaluation(tmp_path / name, every(10, [1, 0]), tokens=length)
    pair = pair_of([str(tmp_path / "a"), str(tmp_path / "b")])
    assert kinds(pair) == named
    assert all("by 2.0 or more, 5% of 40" in finding.rule for finding in pair.gain)


@pytest.mark.parametrize(("greedy", "named"), [([1, 0], True), ([0, 0], True), ([1, 1], False)])
def test_a_rise_of_the_average_alone_is_sharpening(tmp_path: Path, greedy: list[int], named: bool) -> None:
    """Of ten problems half of all samples are right, then all; five greedy completions, then five, none or ten."""
    a, b = (dict(zip(every(10, []), 5 * [first, second], strict=True)) for first, second in ([1, 0], greedy))
    evaluation(tmp_path / "a", every(10, [1, 0]), greedy=a)
    evaluation(tmp_path / "b", every(10, [1, 1]), greedy=b)
    pair = pair_of([str(tmp_path / "a"), str(tmp_path / "b")])
    assert ("sharpening, no gain" in kinds(pair)) == named
    if named:
        figures = pair.gain[0].figures
        assert figures["Average"]["difference"] == 0.5
        assert figures["greedy"]["difference"] == pytest.approx(sum(b.values()) / 10 - 0.5)


def test_forgotten_elsewhere(tmp_path: Path) -> None:
    for bench, better in (("aime", "b"), ("gsm8k", "a")):
        for name in ("a", "b"):
            evaluation(tmp_path / name, every(10, [1, 1] if name == better else [1, 0]), bench=bench)
    pair = pair_of([str(tmp_path / "a"), str(tmp_path / "b")])
    assert kinds(pair) == ["forgotten elsewhere"]
    assert pair.gain[0].figures == {"gsm8k": {"difference": -0.5, "low": -0.5, "high": -0.5}}


def test_what_is_not_shown_is_not_named(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", rows(8))
    evaluation(tmp_path / "b", rows(9))
    assert kinds(pair_of([str(tmp_path / "a"), str(tmp_path / "b")])) == []


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


@pytest.mark.slow
def test_a_null_difference_is_rejected_in_a_twentieth_of_cases() -> None:
    """Four seeds whose spread is that of the training, which a test over pooled samples would not see."""
    draws = np.random.default_rng(0).normal(0, 0.03, (2000, 4))
    rejected = np.mean([(seed_difference(own.tolist()).p_value or 0) < 0.05 for own in draws])
    assert 0.04 < rejected < 0.06
