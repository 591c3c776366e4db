"""The texts of the problems and the slips, without the model."""

import random
import re

import pytest
from arithmetic import (
    LARGEST,
    STEPS,
    Chain,
    Step,
    completion,
    random_chain,
    reference_solution,
    work,
    work_with_slips,
    written_steps,
)
from hypothesis import given
from hypothesis import strategies as st

CHAIN = Chain(37, (Step("+", 8), Step("*", 2), Step("-", 45), Step("+", 12)))
seeds = st.integers(0, 2**32).map(random.Random)


def test_the_texts_of_a_chain() -> None:
    values = work(CHAIN.start, CHAIN.steps)
    assert CHAIN.problem == "Start with 37, add 8, multiply by 2, subtract 45, add 12."
    assert reference_solution(CHAIN) == r"37+8=45; 45*2=90; 90-45=45; 45+12=57. \boxed{57}"
    assert completion(CHAIN, values) == "<think>\n37+8=45\n45*2=90\n90-45=45\n45+12=57\n</think>\n\n\\boxed{57}"


def test_a_slip_is_carried_on() -> None:
    assert written_steps(CHAIN, [35, 70, 25, 37]) == ["37+8=35", "35*2=70", "70-45=25", "25+12=37"]
    assert completion(CHAIN, [35, 70, 25, 37]).endswith(r"\boxed{37}")


@pytest.mark.parametrize(
    ("value", "step", "forgotten"),
    [
        (37, Step("+", 8), 35),
        (52, Step("-", 17), 45),
        (27, Step("*", 3), 61),
        (12, Step("-", 7), 15),
        (30, Step("+", 40), 70),
        (48, Step("-", 5), 43),
    ],
)
def test_a_forgotten_carry(value: int, step: Step, forgotten: int) -> None:
    assert step.without_carry(value) == forgotten


@given(seeds)
def test_random_chains_stay_in_range(rng: random.Random) -> None:
    chain = random_chain(rng)
    assert len(chain.steps) == STEPS
    assert all(0 <= value <= LARGEST for value in [chain.start, *work(chain.start, chain.steps)])


@given(seeds)
def test_each_equation_with_slips_goes_on_from_the_one_before(rng: random.Random) -> None:
    chain = random_chain(rng)
    values = work_with_slips(chain, rng)
    heads = [int(re.match(r"-?\d+", equation)[0]) for equation in written_steps(chain, values)]  # type: ignore[index]
    assert heads == [chain.start, *values[:-1]]


def test_slips_are_common_and_yet_not_the_rule() -> None:
    rng = random.Random(0)
    chains = [random_chain(rng) for _ in range(4000)]
    right = sum(work_with_slips(chain, rng)[-1] == work(chain.start, chain.steps)[-1] for chain in chains)
    assert 0.35 < right / len(chains) < 0.50
