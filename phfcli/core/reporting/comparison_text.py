"""What a report says in sentences: the verdict of a comparison, and what stood out in training."""

from collections.abc import Mapping, Sequence
from typing import Any

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.analysis.methods import Method
from phfcli.core.errors import percent
from phfcli.core.reporting.run_summaries import RunSummary

_LEVEL = 0.05
_NAMED = 3  # pairs that are named before the rest is counted


def verdict(comparison: Comparison, runs: Sequence[RunSummary]) -> list[str]:
    """At most three sentences; one that there is nothing to say for is left out."""
    return [sentence for sentence in (_scores(comparison), _differences(comparison), _health(runs)) if sentence]


def _scores(comparison: Comparison) -> str:
    """The best method of each benchmark, those that are level with it, and the others' range."""
    told = []
    for bench in comparison.benches:
        methods = [method for method in comparison.methods if bench in method.benches]
        *others, best = sorted(methods, key=lambda method: method.average(bench)[0])
        level = [method for method in others if _percent(method, bench) == _percent(best, bench)]
        names = [
            f"{method.name} of {method.model}" if len(comparison.models) > 1 else method.name
            for method in (best, *level)
        ]
        behind = others[: len(others) - len(level)]
        span = " to ".join(dict.fromkeys(_percent(method, bench) for method in (*behind[:1], *behind[-1:])))
        best_told = f"{' and '.join(names)} {_percent(best, bench)}" + (" each" if level else "")
        told.append(f"on {bench} {best_told}" + (f", the rest {span}" if behind else ""))
    return f"Share of right samples: {'; '.join(told)}." if told else ""


def _differences(comparison: Comparison) -> str:
    """Which differences have p at most 0.05 after Holm's correction."""
    if not comparison.pairs:
        return ""
    apart = [pair for pair in comparison.pairs if pair.p_holm <= _LEVEL]
    if not apart:
        return "No two of them are told apart (p at most 0.05 after Holm's correction)."
    more = f", and {len(apart) - _NAMED} more" if len(apart) > _NAMED else ""
    several = len({pair.model for pair in comparison.pairs}) > 1
    named = "; ".join(_named(pair, several) for pair in apart[:_NAMED])
    return f"Told apart (p at most 0.05 after Holm's correction): {named}{more}, of {len(comparison.pairs)} compared."


def _named(pair: Pair, several: bool) -> str:
    difference = pair.result.difference
    above, below = (pair.b, pair.a) if difference > 0 else (pair.a, pair.b)
    of = f" of {pair.model}" if several else ""
    points = f"{percent(abs(difference))} points"
    return f"{above}{of} is {points} above {below} on {pair.bench} (over {pair.measured.unit})"


def _health(runs: Sequence[RunSummary]) -> str:
    """The alarms of the trainings, by run."""
    trained = {run.name: run.alarms for run in runs if run.metrics}
    return alarm_sentence(trained) if trained else ""


def alarm_sentence(alarms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Which alarms rang, by run; `alarms` are the lines of each one's alarms.jsonl."""
    rang = {name: sorted({alarm["alarm"] for alarm in own}) for name, own in alarms.items() if own}
    if not rang:
        return "No alarm rang in training."
    told = [f"{name} ({', '.join(kinds)})" for name, kinds in rang.items()]
    return f"Alarms in training: {'; '.join(told)}."


def _percent(method: Method, bench: str) -> str:
    return f"{percent(method.average(bench)[0])} %"
