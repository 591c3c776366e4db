"""The embedded problem sets: three disjoint lists of chains, drawn from one seed, and their lines on disk."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice

from arithmetic import Chain, random_chain, reference_solution, work

from phfcli.core.types import Problem

SIZES = {"train": 4000, "dev": 128, "eval": 128}


def draw_sets(seed: int) -> dict[str, list[Chain]]:
    """The chains of every set; no problem occurs twice, within a set or across them."""
    rng = random.Random(f"{seed}/problems")
    distinct: dict[str, Chain] = {}
    while len(distinct) < sum(SIZES.values()):
        chain = random_chain(rng)
        distinct[chain.problem] = chain
    chains = iter(distinct.values())
    return {name: list(islice(chains, size)) for name, size in SIZES.items()}


def problem_texts(sets: Mapping[str, Sequence[Chain]]) -> set[str]:
    """The text of every problem of every set: what pretraining must not see."""
    return {chain.problem for chains in sets.values() for chain in chains}


def as_problems(name: str, chains: Sequence[Chain]) -> list[Problem]:
    return [
        Problem(
            id=f"{name}-{number:04d}",
            problem=chain.problem,
            solution=reference_solution(chain),
            answer=str(work(chain.start, chain.steps)[-1]),
        )
        for number, chain in enumerate(chains, start=1)
    ]


def json_lines(problems: Iterable[Problem]) -> str:
    fields = (asdict(problem) for problem in problems)
    # of accepted answers there is one, which stands in `answer`; further columns there are none
    kept = ({k: v for k, v in own.items() if k not in ("accepted", "columns")} for own in fields)
    return "".join(json.dumps(own) + "\n" for own in kept)
