"""Names the kind of a gain, such as "more problems solved" or "shorter", by rules on 95% intervals.

Each finding states its rule and the figures that the rule used. A figure is a difference of two methods with its
interval, over seeds or problems as the comparison chose.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phfcli.core.analysis.differences import PairedDifference, Scores, SeedDifference
from phfcli.core.analysis.methods import Method, MethodDifference, measure
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.evaluation.scores import pass_at_k
from phfcli.core.grading.answers import read_if_short

Figure = PairedDifference | SeedDifference
_COUNTS = ("distinct answers", "tokens")  # figures that are counts, not shares
# the smallest changes that get a name, however narrow their interval: of a share of problems, and of a length
LEAST_SHARE, LEAST_LENGTH = 0.01, 0.05
_LEAST = f", by {100 * LEAST_SHARE:g} point or more"


@dataclass(frozen=True)
class GainFinding:
    """The name of a kind of gain, the rule that decides it, and the figures that the rule used."""

    name: str
    rule: str
    figures: dict[str, dict[str, float | None]]

    @property
    def sentence(self) -> str:
        figures = "; ".join(_figure_text(name, figure) for name, figure in self.figures.items())
        return f"{self.name} ({figures}): {self.rule}"


def gain_findings(a: Method, b: Method, bench: str, average: MethodDifference) -> list[GainFinding]:
    """The kinds of gain of method b over method a on a benchmark, from their samples; none without samples.

    Only what an interval shows is named.
    """
    results = [result for method in (a, b) for result in method.of(bench)]
    if not all(result.samples for result in results):
        return []
    n = min(len(drawn) for result in results for drawn in result.samples.values())
    passed = measure(a, b, [bench], lambda result: _passed(result, n), average.unit).result
    distinct = measure(a, b, [bench], lambda result: _distinct(result, n), average.unit, most=None).result
    greedy = measure(a, b, [bench], _greedy, average.unit).result if all(r.greedy for r in results) else None
    tokens = measure(a, b, [bench], _tokens, average.unit, most=None).result
    more_certain = _more_certain(average.result, passed, distinct, n) if n > 1 else []
    drawn = [sample.tokens for result in a.of(bench) for samples in result.samples.values() for sample in samples]
    length = _length(tokens, sum(drawn) / len(drawn))
    return [*_sharpening(average.result, greedy), *_solved(passed, n), *more_certain, *length]


def forgotten(gained: Figure, elsewhere: Mapping[str, Figure]) -> list[GainFinding]:
    """Names the benchmarks on which the score fell, if it rose on this one."""
    if not _rose(gained):
        return []
    lost = {bench: _figures(result) for bench, result in elsewhere.items() if _below(result)}
    rule = f"the interval of the Average lies above 0 here{_LEAST}, and below 0 there"
    return [GainFinding("forgotten elsewhere", rule, lost)] if lost else []


def _solved(passed: Figure, n: int) -> list[GainFinding]:
    """Whether more or fewer problems are solved by at least one of n samples (pass@n)."""
    figures = {f"pass@{n}": _figures(passed)}
    if _rose(passed):
        return [GainFinding("more problems solved", f"the interval of pass@{n} lies above 0{_LEAST}", figures)]
    if _below(passed) and passed.difference <= -LEAST_SHARE:
        return [GainFinding("fewer problems solved", f"the interval of pass@{n} lies below 0{_LEAST}", figures)]
    return []


def _sharpening(average: Figure, greedy: Figure | None) -> list[GainFinding]:
    """Whether samples became better and greedy completions did not: likely tokens became likelier, right or not."""
    if greedy is None or not _rose(average) or greedy.difference > 0:
        return []
    figures = {"Average": _figures(average), "greedy": _figures(greedy)}
    rule = f"the Average's interval lies above 0{_LEAST}, and greedy did not rise"
    return [GainFinding("sharpening, no gain", rule, figures)]


def _more_certain(average: Figure, passed: Figure, distinct: Figure, n: int) -> list[GainFinding]:
    if not (_rose(average) and passed.difference <= 0 and _below(distinct)):
        return []
    rule = (
        f"the Average's interval lies above 0{_LEAST}, pass@{n} did not rise, distinct answers' interval lies below 0"
    )
    figures: dict[str, Figure] = {"Average": average, f"pass@{n}": passed, "distinct answers": distinct}
    return [GainFinding("surer of what was known", rule, {name: _figures(figure) for name, figure in figures.items()})]


def _length(tokens: Figure, before: float) -> list[GainFinding]:
    """before: mean tokens of the method that the difference is from."""
    least = LEAST_LENGTH * before
    if not (_above(tokens) or _below(tokens)) or abs(tokens.difference) < least:
        return []
    name, side = ("longer", "above") if tokens.difference > 0 else ("shorter", "below")
    rule = f"the interval of the mean tokens lies {side} 0, and they differ by {least:.1f} or more, 5% of {before:.0f}"
    return [GainFinding(name, rule, {"tokens": _figures(tokens)})]


def _passed(result: SavedEvaluation, n: int) -> Scores:
    """Problem -> the chance that one of n samples is right (pass@n)."""
    return {
        problem: [pass_at_k([sum(sample.correct for sample in drawn)], len(drawn), n)]
        for problem, drawn in result.samples.items()
    }


def _distinct(result: SavedEvaluation, n: int) -> Scores:
    """Problem -> the number of different answers among its first n samples, by normalised spelling."""
    return {
        problem: [float(len({_spelling(sample.answer) for sample in drawn[:n] if sample.answer is not None}))]
        for problem, drawn in result.samples.items()
    }


def _greedy(result: SavedEvaluation) -> Scores:
    return result.greedy


def _tokens(result: SavedEvaluation) -> Scores:
    return {problem: [float(sample.tokens) for sample in drawn] for problem, drawn in result.samples.items()}


def _spelling(answer: str) -> object:
    """A key that equal answers share: the number or the normalised text, with unit and modulus."""
    reading = read_if_short(answer)
    if reading is None or reading.unread:
        return answer
    value = reading.number.value if reading.number and reading.name is None else reading.key
    return value, reading.unit, reading.modulus


def _rose(share: Figure) -> bool:
    """Whether the interval of a share lies above 0, and the share rose by enough to matter."""
    return _above(share) and share.difference >= LEAST_SHARE


def _above(figure: Figure) -> bool:
    return figure.low is not None and figure.low > 0


def _below(figure: Figure) -> bool:
    return figure.high is not None and figure.high < 0


def _figures(figure: Figure) -> dict[str, float | None]:
    return {"difference": figure.difference, "low": figure.low, "high": figure.high}


def _figure_text(name: str, figure: dict[str, float | None]) -> str:
    """A figure with its interval as text: shares in percentage points, counts unchanged."""
    scale = 1 if name in _COUNTS else 100
    value, low, high = (None if part is None else scale * part for part in figure.values())
    interval = "no interval" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
    return f"{name} {value:+.1f}, {interval}"
