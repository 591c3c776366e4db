"""What kind of gain a difference is, by rules that the findings state with their figures.

Each figure is a difference of two methods with its 95% interval over the unit that counts, seeds or problems.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phfcli.core.analysis.differences import PairedDifference, Scores, SeedDifference
from phfcli.core.analysis.methods import Method, MethodDifference, measure
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.evaluation.scores import pass_at_k
from phfcli.core.grading.answers import read
from phfcli.core.grading.exact import Refused

Figure = PairedDifference | SeedDifference
_COUNTS = ("distinct answers", "tokens")


@dataclass(frozen=True)
class GainFinding:
    """The name of a kind of gain, the rule that gives it, and the figures that it went by."""

    name: str
    rule: str
    figures: dict[str, dict[str, float | None]]

    @property
    def sentence(self) -> str:
        told = "; ".join(_told(name, figure) for name, figure in self.figures.items())
        return f"{self.name} ({told}): {self.rule}"


def gain_findings(a: Method, b: Method, bench: str, average: MethodDifference) -> list[GainFinding]:
    """What the samples of two methods say of the difference on a benchmark; nothing where there are none.

    All of it by rules on intervals: what an interval does not show is not named.
    """
    every = [result for method in (a, b) for result in method.of(bench)]
    if not all(result.samples for result in every):
        return []
    n = min(len(drawn) for result in every for drawn in result.samples.values())
    passed = measure(a, b, [bench], lambda result: _passed(result, n), average.unit).result
    distinct = measure(a, b, [bench], lambda result: _distinct(result, n), average.unit, most=None).result
    tokens = measure(a, b, [bench], _tokens, average.unit, most=None).result
    surer = _surer(average.result, passed, distinct, n) if n > 1 else []
    return [*_solved(passed, n), *surer, *_length(tokens)]


def forgotten(gained: Figure, elsewhere: Mapping[str, Figure]) -> list[GainFinding]:
    """Benchmarks on which the score fell, where it rose on this one."""
    if not _above(gained):
        return []
    lost = {bench: _figures(result) for bench, result in elsewhere.items() if _below(result)}
    rule = "the interval of the Average lies above 0 here, and below 0 there"
    return [GainFinding("forgotten elsewhere", rule, lost)] if lost else []


def _solved(passed: Figure, n: int) -> list[GainFinding]:
    """pass@n counts the problems that at least one of n samples solves."""
    own = {f"pass@{n}": _figures(passed)}
    if _above(passed):
        return [GainFinding("more problems solved", f"the interval of pass@{n} lies above 0", own)]
    if _below(passed):
        return [GainFinding("fewer problems solved", f"the interval of pass@{n} lies below 0", own)]
    return []


def _surer(average: Figure, passed: Figure, distinct: Figure, n: int) -> list[GainFinding]:
    if not (_above(average) and passed.difference <= 0 and _below(distinct)):
        return []
    rule = f"the Average's interval lies above 0, pass@{n} did not rise, distinct answers' interval lies below 0"
    own: dict[str, Figure] = {"Average": average, f"pass@{n}": passed, "distinct answers": distinct}
    return [GainFinding("surer of what was known", rule, {name: _figures(figure) for name, figure in own.items()})]


def _length(tokens: Figure) -> list[GainFinding]:
    if not (_above(tokens) or _below(tokens)):
        return []
    name, side = ("longer", "above") if tokens.difference > 0 else ("shorter", "below")
    return [GainFinding(name, f"the interval of the mean tokens lies {side} 0", {"tokens": _figures(tokens)})]


def _passed(result: SavedEvaluation, n: int) -> Scores:
    """The chance of each problem that one of n samples is right."""
    return {
        problem: [pass_at_k([sum(sample.correct for sample in drawn)], len(drawn), n)]
        for problem, drawn in result.samples.items()
    }


def _distinct(result: SavedEvaluation, n: int) -> Scores:
    """How many different answers each problem has in its first n samples, by their normalised spelling."""
    return {
        problem: [float(len({_spelling(sample.answer) for sample in drawn[:n] if sample.answer is not None}))]
        for problem, drawn in result.samples.items()
    }


def _tokens(result: SavedEvaluation) -> Scores:
    return {problem: [float(sample.tokens) for sample in drawn] for problem, drawn in result.samples.items()}


def _spelling(answer: str) -> object:
    """What alike answers have in common: the number that is spelt, or the normalised text; with unit and modulus."""
    try:
        reading = read(answer)
    except Refused:
        return answer
    value = reading.number.value if reading.number and reading.name is None else reading.key
    return value, reading.unit, reading.modulus


def _above(figure: Figure) -> bool:
    return figure.low is not None and figure.low > 0


def _below(figure: Figure) -> bool:
    return figure.high is not None and figure.high < 0


def _figures(figure: Figure) -> dict[str, float | None]:
    return {"difference": figure.difference, "low": figure.low, "high": figure.high}


def _told(name: str, figure: dict[str, float | None]) -> str:
    """A figure with its interval: shares of problems or samples in points, counts as they are."""
    scale = 1 if name in _COUNTS else 100
    value, low, high = (None if part is None else scale * part for part in figure.values())
    interval = "no interval" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
    return f"{name} {value:+.1f}, {interval}"
