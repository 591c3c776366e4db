"""The families of the study on a real model: problems of reasoning-gym, each with a reference in our own words.

A reference has one equation a line and the boxed answer last. An item of reasoning-gym that a family cannot write out
so, or finds too long for a short rollout, is left out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

Item = Mapping[str, Any]  # of reasoning-gym: question, answer, metadata

POOL = 100_000  # items that a family may draw from


class Worked(NamedTuple):
    """A problem with its worked solution: equations, one a line, and the answer."""

    problem: str
    lines: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        return "\n".join([*self.lines, f"\\boxed{{{self.answer}}}"])


@dataclass(frozen=True)
class Family:
    """A generator of reasoning-gym at one level, and how an item of it is worked; None where it is left out."""

    name: str
    dataset: str
    level: Mapping[str, int]
    work: Callable[[Item], Worked | None]

    def worked(self, seed: int) -> Iterator[Worked]:
        """Its problems from this seed on; the generator draws item i from seed + i."""
        items = reasoning_gym.create_dataset(self.dataset, seed=seed, size=POOL, **self.level)
        return filter(None, (self.work(items[index]) for index in range(POOL)))


def work_sum(item: Item) -> Worked | None:
    """A chain of sums and differences, worked from the left; none that runs below zero."""
    start, *terms = re.findall(r"[+-]? ?\d+", item["metadata"]["expression"])
    totals = [int(start)]
    for term in terms:
        totals.append(totals[-1] + int(term.replace(" ", "")))
    if min(totals) < 0:
        return None
    equations = zip(pairwise(totals), terms, strict=True)
    lines = tuple(f"{before}{term.replace(' ', '')}={after}" for (before, after), term in equations)
    return Worked(f"What is {item['metadata']['expression']}?", lines, str(totals[-1]))


def work_legs(item: Item) -> Worked | None:
    """The legs of each kind of animal, then their sum from the left."""
    animals = item["metadata"]["animals"]
    legs = [number * ANIMALS[animal] for animal, number in animals.items()]
    lines = [f"{animal}: {number}*{ANIMALS[animal]}={number * ANIMALS[animal]}" for animal, number in animals.items()]
    total = legs[0]
    for more in legs[1:]:
        lines.append(f"{total}+{more}={total + more}")
        total += more
    listed = ", ".join(f"{animal}: {number}" for animal, number in animals.items())
    return Worked(f"How many legs do these animals have together? {listed}", tuple(lines), str(total))


def work_words(item: Item, steps: range, largest: int, length: int) -> Worked | None:
    """A word problem as the equations of its solution: whole numbers, each equation true, the last gives the answer."""
    question = item["question"].partition(" Give the result as")[0]
    equations = find_equations(item["metadata"]["answer_cot"].partition("####")[0])
    fits = len(equations) in steps and len(question) <= length
    if not fits or not all(holds(left, right) for left, right in equations) or equations[-1][1] != item["answer"]:
        return None
    lines = tuple(f"{left}={right}" for left, right in equations)
    if any(int(number) > largest for number in re.findall(r"\d+", question + " ".join(lines))):
        return None
    return Worked(question, lines, item["answer"])


def work_divisor(item: Item) -> Worked | None:
    """The greatest common divisor of two numbers, by the remainders of Euclid."""
    large, small = sorted(item["metadata"]["numbers"], reverse=True)
    question, lines = f"What is the greatest common divisor of {large} and {small}?", []
    while small:
        lines.append(f"{large} mod {small} = {large % small}")
        large, small = small, large % small
    return Worked(question, tuple(lines), str(large))


def find_equations(text: str) -> list[tuple[str, str]]:
    """Every "a*b+c = d" of a text in which units stand between the numbers: its two sides, without a space."""
    bare = re.sub(r"[$€£,]", "", text)
    bare = re.sub(r" [x×] ", " * ", bare)
    bare = re.sub(r"/?[A-Za-z]+(?:/[A-Za-z]+)*", "", bare)  # a unit: "kids", "pages/week"
    number = r"\d+(?:\.\d+)?"
    found = re.findall(rf"({number}(?:\s*[-+*/]\s*{number})+)\s*=\s*({number})", bare)
    return [(re.sub(r"\s", "", left), right) for left, right in found]


def holds(left: str, right: str) -> bool:
    """Whether a sum of products of whole numbers has this whole value, all of it without a fraction."""
    if "." in left + right:
        return False
    terms = re.findall(r"[-+]?[^-+]+", left)
    values = [value_of(term) for term in terms]
    return all(value.denominator == 1 for value in values) and sum(values) == int(right)


def value_of(term: str) -> Fraction:
    """The value of "-12*3/4"; of a division by zero, one that is not whole."""
    value, sign = Fraction(1), "*"
    for part in re.findall(r"[*/]|[-+]?\d+", term):
        if part in "*/":
            sign = part
        elif sign == "/" and int(part) == 0:
            return Fraction(1, 2)
        else:
            value = value * int(part) if sign == "*" else value / int(part)
    return value


def words(steps: range, largest: int, length: int) -> Callable[[Item], Worked | None]:
    return partial(work_words, steps=steps, largest=largest, length=length)


def _sums(terms: tuple[int, int], digits: int) -> dict[str, int]:
    return {"min_terms": terms[0], "max_terms": terms[1], "min_digits": digits, "max_digits": digits}


def _legs(kinds: tuple[int, int], most: int) -> dict[str, int]:
    return {"min_animals": kinds[0], "max_animals": kinds[1], "max_instances": most}


FAMILIES = [
    Family("sums", "chain_sum", _sums((2, 3), 2), work_sum),
    Family("words", "gsm_symbolic", {}, words(range(1, 4), 200, 250)),
    Family("legs", "leg_counting", _legs((2, 2), 9), work_legs),
]
HARDER = [
    Family("sums", "chain_sum", _sums((4, 4), 2), work_sum),
    Family("words", "gsm_symbolic", {}, words(range(3, 6), 1000, 400)),
    Family("legs", "leg_counting", _legs((3, 4), 9), work_legs),
]
HELD_OUT = [Family("divisors", "gcd", {"min_value": 2, "max_value": 60}, work_divisor)]
