"""How well the intervals of `phf compare` hold: `python benchmarks/intervals.py [--output benchmarks/INTERVALS.md]`.

Two methods are drawn on the same problems, whose chances of a right sample are spread as a benchmark's are. Over
problems: how often the 95% interval covers the true difference, how often the test rejects where there is none, and
how often interval and test contradict each other. Over seeds: each training moves all chances by a random amount (in
logits), the methods are alike, and a difference is called one by pooled samples or with seeds as the unit. With ties:
most problems are never solved, and one in ten is solved by one method alone. Power: how often the test finds a true
difference of the size that `could show` prints, at the true spread.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from phfcli.core.analysis.differences import (
    _detectable,
    _ends,
    _interval,
    paired_difference,
    pool,
    seed_difference,
)

LEVEL = 0.05
SAMPLES = 12
POINTS = 0.05  # the true difference where there is one
Floats = NDArray[np.float64]


def main(
    simulations: Annotated[int, typer.Option(help="Of each row.")] = 2000,
    spread: Annotated[float, typer.Option(help="From one training to the next, in logits.")] = 0.15,
    seeds: int = 3,
    output: Annotated[Path | None, typer.Option(help="Also write the tables there.")] = None,
) -> None:
    """Simulate, and print the tables in Markdown."""
    rng = np.random.default_rng(0)
    lines = [
        "# How well the intervals hold",
        "",
        f"`python benchmarks/intervals.py --simulations {simulations}`: {SAMPLES} samples a problem, percent",
        f"of simulations. Near 5 and 95 percent a figure's error is {100 * (0.0475 / simulations) ** 0.5:.1f} points.",
        "",
        f"## Over problems, problems drawn anew, a true difference of 0 or {100 * POINTS:g} points",
        "",
        "| problems | covers, no difference | covers, a difference | percentile bootstrap covers "
        "| rejects without a difference | finds the difference | contradictions |",
        "|---|---|---|---|---|---|---|",
    ]
    for problems in (5, 15, 30, 128):
        null, moved = (over_problems(rng, problems, simulations, gain) for gain in (0.0, POINTS))
        contradictions = null["contradicts"] + moved["contradicts"]
        shares = [null["covers"], moved["covers"], null["bootstrap"], null["rejects"], moved["rejects"], contradictions]
        lines.append(row(problems, shares))
    lines += [
        "",
        f"## Over {seeds} trainings of each of two methods that are alike, {spread:g} logits from one to the next",
        "",
        "| problems | seeds pooled: calls a difference | seeds as the unit: calls a difference | its interval covers |",
        "|---|---|---|---|",
    ]
    for problems in (30, 128):
        lines.append(row(problems, over_seeds(rng, problems, simulations, seeds, spread)))
    lines += [
        "",
        f"## Over problems, most never solved, {2 * POINTS:.0%} by one method alone: {100 * POINTS:g} points",
        "",
        "| problems | never solved | differ | covers | the exchanges alone cover | mean width, points | rejects |",
        "|---|---|---|---|---|---|---|",
    ]
    for problems in (8, 15, 30, 60):
        for never in (0.0, 0.5, 0.8, 0.95):
            differ, width, covers, alone, rejects = with_ties(rng, problems, never, simulations // 4)
            shares = [f"{100 * share:.1f}" for share in (covers, alone)]
            cells = [f"{100 * never:.0f}%", f"{differ:.1f}", *shares, f"{100 * width:.0f}", f"{100 * rejects:.1f}"]
            lines.append(f"| {problems} | {' | '.join(cells)} |")
    lines += [
        "",
        "## How often the test finds a difference of the size that `could show` names",
        "",
        "| unit | number | standard errors | finds it |",
        "|---|---|---|---|",
    ]
    for unit, numbers in (("problems", (8, 15, 30, 60)), ("seeds", (2, 3, 4, 8))):
        for number in numbers:
            errors, found = power(rng, unit, number, simulations)
            lines.append(f"| {unit} | {number} | {errors:.2f} | {100 * found:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if output is not None:
        output.write_text(text)


def over_problems(rng: np.random.Generator, problems: int, simulations: int, gain: float) -> dict[str, float]:
    """Shares of the simulations."""
    found = []
    for _ in range(simulations):
        chances = rng.beta(0.7, 0.7, problems)
        differences = draw(rng, moved(chances, gain)) - draw(rng, chances)
        told = paired_difference(*as_runs(differences))
        assert told.low is not None
        assert told.high is not None
        rejects, excludes = told.p_value < LEVEL, told.low > 0 or told.high < 0
        found.append((told.low <= gain <= told.high, bootstrap_covers(rng, differences), rejects, rejects != excludes))
    return dict(zip(("covers", "bootstrap", "rejects", "contradicts"), np.mean(found, axis=0), strict=True))


def over_seeds(rng: np.random.Generator, problems: int, simulations: int, seeds: int, spread: float) -> list[float]:
    """How often two methods that are alike are told apart, pooled and by seeds, and the coverage of the latter."""
    found = []
    for _ in range(simulations):
        logits = np.log(1 / rng.beta(0.7, 0.7, problems).clip(1e-6, 1 - 1e-6) - 1)
        arms = [[draw(rng, 1 / (1 + np.exp(logits + rng.normal(0, spread)))) for _ in range(seeds)] for _ in ("a", "b")]
        a, b = (pool([as_run(own) for own in arm]) for arm in arms)
        by_seed = seed_difference([float(one.mean() - other.mean()) for one, other in zip(*arms, strict=True)])
        assert by_seed.p_value is not None
        assert by_seed.low is not None
        assert by_seed.high is not None
        pooled = paired_difference(a, b).p_value < LEVEL
        found.append((pooled, by_seed.p_value < LEVEL, by_seed.low <= 0 <= by_seed.high))
    return [float(share) for share in np.mean(found, axis=0)]


def with_ties(rng: np.random.Generator, problems: int, never: float, simulations: int) -> list[float]:
    """Problems that differ, width, coverage, that of the exchanges alone, and how often the test rejects."""
    found = []
    for _ in range(simulations):
        chances = np.where(rng.random(problems) < never, 0.0, rng.beta(0.7, 0.7, problems))
        gained = rng.random(problems) < 2 * POINTS
        a = draw(rng, np.where(gained, rng.random(problems), chances))
        b = draw(rng, np.where(gained, 0.0, chances))
        told = paired_difference(*as_runs(a - b))
        low, high = exchanges_alone(a - b)
        assert told.low is not None
        assert told.high is not None
        covers, alone = told.low <= POINTS <= told.high, low <= POINTS <= high
        found.append((np.sum(a != b), told.high - told.low, covers, alone, told.p_value < LEVEL))
    return [float(value) for value in np.mean(found, axis=0)]


def exchanges_alone(differences: Floats) -> tuple[float, float]:
    """The interval that inverts the test, also where the test can reject nothing: what `phf compare` had before."""
    weights = np.full(len(differences), 1 / len(differences))
    low, high = _interval(*_ends(differences, weights, np.random.default_rng(0)), 1.0)
    assert low is not None
    assert high is not None
    return low, high


def power(rng: np.random.Generator, unit: str, number: int, simulations: int) -> tuple[float, float]:
    """The standard errors that `could show` takes, and how often a difference of that size is found."""
    errors = _detectable(number - 1)
    values = rng.normal(errors / number**0.5, 1, (simulations, number))
    if unit == "seeds":
        tests = [seed_difference(list(row)).p_value for row in values]
    else:
        tests = [paired_difference(*as_runs(row), most=None).p_value for row in values]
    return errors, float(np.mean([p is not None and p < LEVEL for p in tests]))


def moved(chances: Floats, gain: float) -> Floats:
    """Chances whose mean, over such problems, is higher by the gain: what is certain or hopeless moves little."""
    room = chances * (1 - chances)
    expected = 0.7 * 0.7 / (1.4 * 2.4)  # the mean of the room under Beta(0.7, 0.7)
    return np.asarray(chances + gain * room / expected)


def draw(rng: np.random.Generator, chances: Floats) -> Floats:
    """The share of right samples of each problem."""
    return rng.binomial(SAMPLES, chances) / SAMPLES


def bootstrap_covers(rng: np.random.Generator, differences: Floats) -> bool:
    """Whether a percentile bootstrap of 1,000 draws, which `phf compare` had before, holds zero."""
    size = len(differences)
    means = differences[rng.integers(0, size, (1000, size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return bool(low <= 0 <= high)


def as_run(scores: Floats) -> dict[str, list[float]]:
    return {f"p{index:03}": [float(score)] for index, score in enumerate(scores)}


def as_runs(differences: Floats) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    return as_run(differences), as_run(np.zeros(len(differences)))


def row(problems: int, shares: list[float]) -> str:
    return f"| {problems} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |"


if __name__ == "__main__":
    typer.run(main)
