"""Size and power of the test of `phf compare`: `python benchmarks/paired_test.py [--simulations 2000]`.

Two runs are drawn on the same problems, whose chances of a right sample are spread as a benchmark's are, from hopeless
to certain. Without a difference the test at 5% has to reject in 5% of the simulations; with one, moved into the chances
of the second run, how often it rejects is its power. Beside it stands what the first simulations called detectable.
"""

import json
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from phfcli.core.analysis.differences import PairedDifference, paired_difference

LEVEL = 0.05
Floats = NDArray[np.float64]


def main(
    simulations: Annotated[int, typer.Option(help="For the size; a quarter of them for each power.")] = 2000,
    problems: int = 30,
    samples: int = 12,
    points: Annotated[str, typer.Option(help="True differences, in points.")] = "2,4,6,8,10",
    seed: int = 0,
) -> None:
    """Simulate comparisons and print JSON."""
    rng = np.random.default_rng(seed)
    null = [compare(rng, problems, samples, 0.0) for _ in range(simulations)]
    rejected = float(np.mean([told.p_value <= LEVEL for told in null]))
    covered = [told.low is not None and told.high is not None and told.low <= 0 <= told.high for told in null]
    power = {}
    for true in map(float, points.split(",")):
        found = [compare(rng, problems, samples, true / 100) for _ in range(simulations // 4)]
        power[f"{true:g} points"] = float(np.mean([told.p_value <= LEVEL for told in found]))
    result = {
        "problems": problems,
        "samples": samples,
        "simulations": simulations,
        "level": LEVEL,
        "size": rejected,
        "size_stderr": float(np.sqrt(rejected * (1 - rejected) / simulations)),
        "interval_covers": float(np.mean(covered)),
        "power": power,
        "called_detectable": float(np.median([told.detectable or 0 for told in null])),
    }
    print(json.dumps(result, indent=2))


def compare(rng: np.random.Generator, problems: int, samples: int, gain: float) -> PairedDifference:
    """Two runs whose chances differ by `gain` on the mean, each by more or less on a single problem."""
    chances = rng.beta(0.7, 0.7, problems)
    return paired_difference(draw(rng, moved(chances, gain), samples), draw(rng, chances, samples))


def moved(chances: Floats, gain: float) -> Floats:
    """The chances, raised most in the middle: what is certain or hopeless moves little."""
    room = chances * (1 - chances)
    return np.clip(chances + gain * room / room.mean(), 0, 1)


def draw(rng: np.random.Generator, chances: Floats, samples: int) -> dict[str, list[float]]:
    rows = (rng.random((len(chances), samples)) < chances[:, None]).astype(float)
    return {f"p{index}": row.tolist() for index, row in enumerate(rows)}


if __name__ == "__main__":
    typer.run(main)
