"""The difference of two arms over problems, and over training seeds where both have several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from phfcli.core.analysis.arms import Arm
from phfcli.core.analysis.paired_difference import PairedDifference, Scores, pool, suite_difference
from phfcli.core.analysis.seed_difference import SeedDifference, seed_difference, unpaired_difference
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.names import UnitName

Values = Callable[[SavedEvaluation], Scores]  # of each problem the values of its samples, or one value


@dataclass(frozen=True)
class Measured:
    """A difference over both units.

    Attributes:
        over_problems: would these very checkpoints differ on other problems?
        over_seeds: would another training differ? None where an arm has one seed.
        unit: the one that counts.
    """

    over_problems: PairedDifference
    over_seeds: SeedDifference | None
    unit: UnitName

    @property
    def result(self) -> PairedDifference | SeedDifference:
        return self.over_seeds if self.unit == "seeds" and self.over_seeds else self.over_problems

    @property
    def p_value(self) -> float:
        """Of the unit that counts."""
        p_value = self.result.p_value
        assert p_value is not None  # a difference over seeds has several
        return p_value

    def as_json(self) -> dict[str, Any]:
        """The figures of the unit that counts, and both by their names."""
        own = asdict(self.result)
        shown = {key: own[key] for key in ("difference", "stderr", "low", "high", "p_value", "detectable")}
        return shown | {
            "problems": self.over_problems.problems,
            "unit": self.unit,
            "over_problems": asdict(self.over_problems),
            "over_seeds": asdict(self.over_seeds) if self.over_seeds else None,
        }


def of_scores(result: SavedEvaluation) -> Scores:
    """1 for each right sample, else 0."""
    return result.scores


def measure(
    a: Arm, b: Arm, benches: Sequence[str], values: Values, unit: UnitName | None = None, most: float | None = 1.0
) -> Measured:
    """b minus a on the mean over benchmarks of some value of each problem.

    unit: None is seeds where both arms have several, else problems.
    Raises UserError where the unit is seeds, and an arm has a single one.
    """
    both = [(pool(list(map(values, b.of(bench)))), pool(list(map(values, a.of(bench))))) for bench in benches]
    over_problems = suite_difference(both, most=most)
    over_seeds = _over_seeds(a, b, benches, values)
    if unit == "seeds" and over_seeds is None:
        single = next(arm.name for arm in (a, b) if len(_means(arm, benches, values)) < 2)
        raise UserError(f"--unit seeds: {single} has a single seed; train others, or leave the option out")
    return Measured(over_problems, over_seeds, unit or ("seeds" if over_seeds else "problems"))


def _over_seeds(a: Arm, b: Arm, benches: Sequence[str], values: Values) -> SeedDifference | None:
    """Paired where both have two seeds in common, else of two groups; None where an arm has a single seed."""
    one, other = _means(a, benches, values), _means(b, benches, values)
    if min(len(one), len(other)) < 2:
        return None
    common = [seed for seed in one if seed in other and not isinstance(seed, str)]
    if len(common) >= 2:
        return seed_difference([other[seed] - one[seed] for seed in common])
    return unpaired_difference(list(other.values()), list(one.values()))


def _means(arm: Arm, benches: Sequence[str], values: Values) -> Mapping[int | str, float]:
    """Of each seed, or run where it has none, the mean over benchmarks; only of those that have all of them."""
    found: dict[int | str, dict[str, float]] = {}
    for bench in benches:
        for result in arm.of(bench):
            seed = result.home if result.seed is None else result.seed
            means = [fmean(own) for own in values(result).values()]
            found.setdefault(seed, {})[bench] = fmean(means)
    return {seed: fmean(own.values()) for seed, own in found.items() if len(own) == len(benches)}
