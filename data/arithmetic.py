"""Chains of two-digit arithmetic: the texts of a problem and of its worked solution, and the slips a pupil makes.

The embedded model must be able to solve these problems and yet often fail, or there would be nothing for
self-distillation to mend. So its pretraining shows it worked solutions with slips: now and then a random one, and often
a forgotten carry. The carry is remembered more often than forgotten, on purpose: were forgetting it the model's firm
belief, the decisive vocabulary entries would exceed the element clip of the distillation loss and give no gradient.
"""

import operator
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

STEPS = 4
LARGEST = 99  # every right value lies in 0..LARGEST

APPLY: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
START = "Start with "
PHRASES = {"+": ", add ", "-": ", subtract ", "*": ", multiply by "}
SIGN_WEIGHTS = {"+": 2, "-": 2, "*": 1}
SEPARATOR = "; "  # between the steps of a reference solution
BOX = "\\boxed{"
THINK, END_THINK = "<think>", "</think>"


class Slips(NamedTuple):
    """How often a pupil slips."""

    random: float = 0.1  # of all steps
    forgotten_carry: float = 0.45  # of the other steps that have a carry or a borrow


PUPIL = Slips()  # of the embedded model


class Step(NamedTuple):
    """One operation on the running value."""

    sign: str
    operand: int

    def on(self, value: int) -> int:
        return APPLY[self.sign](value, self.operand)

    def without_carry(self, value: int) -> int:
        """The result when what the units carry to the tens, or borrow from them, is forgotten; factors are digits."""
        carry = APPLY[self.sign](value % 10, self.operand % 10) // 10
        return self.on(value) - 10 * carry


class Chain(NamedTuple):
    """A problem: a number to start with and the steps to apply to it in order."""

    start: int
    steps: tuple[Step, ...]

    @property
    def problem(self) -> str:
        """Its text: "Start with 37, add 8, multiply by 2, subtract 45, add 12."."""
        return f"{START}{self.start}" + "".join(f"{PHRASES[step.sign]}{step.operand}" for step in self.steps) + "."


def random_chain(rng: random.Random) -> Chain:
    """A chain whose every value lies in 0..LARGEST."""
    start = value = rng.randint(1, LARGEST)
    steps = []
    for _ in range(STEPS):
        step = _random_step(value, rng)
        value = step.on(value)
        steps.append(step)
    return Chain(start, tuple(steps))


def _random_step(value: int, rng: random.Random) -> Step:
    lowest = {"+": 1, "-": 1, "*": 2}
    highest = {"+": LARGEST - value, "-": value, "*": min(9, LARGEST // max(value, 1))}
    possible = [sign for sign in SIGN_WEIGHTS if lowest[sign] <= highest[sign]]
    (sign,) = rng.choices(possible, [SIGN_WEIGHTS[sign] for sign in possible])
    return Step(sign, rng.randint(lowest[sign], highest[sign]))


def work(start: int, steps: Sequence[Step]) -> list[int]:
    """The value after each step, without a slip."""
    values = []
    for step in steps:
        start = step.on(start)
        values.append(start)
    return values


def work_with_slips(chain: Chain, rng: random.Random, slips: Slips = PUPIL) -> list[int]:
    """The value after each step as a careless pupil has it: a step goes on from the value before it, right or wrong.

    A wrong value may lead a later step out of 0..LARGEST; such a step is worked right.
    """
    value = chain.start
    values = []
    for step in chain.steps:
        slipped = _slip(value, step, rng, slips)
        in_range = all(0 <= number <= LARGEST for number in (value, slipped))
        value = slipped if in_range else step.on(value)
        values.append(value)
    return values


def _slip(value: int, step: Step, rng: random.Random, slips: Slips) -> int:
    """The step's result as the pupil writes it: mostly right, else off by one or ten, digits swapped, or no carry."""
    right = step.on(value)
    if rng.random() < slips.random:
        swapped = right % 10 * 10 + right // 10
        return rng.choice([right - 1, right + 1, right - 10, right + 10, swapped])
    return step.without_carry(value) if rng.random() < slips.forgotten_carry else right


def written_steps(chain: Chain, values: Sequence[int]) -> list[str]:
    """The equations of a solution: ["37+8=45", "45*2=90", ...]."""
    before = [chain.start, *values]
    return [f"{a}{step.sign}{step.operand}={b}" for a, step, b in zip(before, chain.steps, values, strict=False)]


def reference_solution(chain: Chain) -> str:
    """The verified solution that the teacher's prompt holds, in another style than the model's own."""
    values = work(chain.start, chain.steps)
    return f"{SEPARATOR.join(written_steps(chain, values))}. {BOX}{values[-1]}}}"


def completion(chain: Chain, values: Sequence[int]) -> str:
    """A solution as the model writes it: one step a line in the think block, then the boxed answer."""
    lines = "\n".join(written_steps(chain, values))
    return f"{THINK}\n{lines}\n{END_THINK}\n\n{BOX}{values[-1]}}}"
