"""The sentences at the top of a report: the verdict of a comparison, and the alarms of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.analysis.methods import Method
from phfcli.core.errors import percent
from phfcli.core.reporting.run_summaries import RunSummary

_LEVEL = 0.05  # of the corrected p-value
_CUT = 0.95  # mean share of rollouts that are cut, from which on a run has seen hardly an ending
_NAMED = 3  # pairs that are named; the others are counted


def verdict(comparison: Comparison, runs: Sequence[RunSummary]) -> list[str]:
    """At most three sentences, on scores, differences and alarms; a sentence without content is left out."""
    return [sentence for sentence in (_scores(comparison), _differences(comparison), _health(runs)) if sentence]


def _scores(comparison: Comparison) -> str:
    """The best method on each benchmark, those with the same score, and the range of the others."""
    sentences = []
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
        leaders = f"{' and '.join(names)} {_percent(best, bench)}" + (" each" if level else "")
        sentences.append(f"on {bench} {leaders}" + (f", the rest {span}" if behind else ""))
    return f"Share of right samples: {'; '.join(sentences)}." if sentences else ""


def _differences(comparison: Comparison) -> str:
    """The differences with p at most 0.05 after Holm's correction."""
    if not comparison.pairs:
        return ""
    significant = [pair for pair in comparison.pairs if pair.p_holm <= _LEVEL]
    if not significant:
        return "No two of them differ significantly (p at most 0.05 after Holm's correction)."
    more = f", and {len(significant) - _NAMED} more" if len(significant) > _NAMED else ""
    several = len({pair.model for pair in comparison.pairs}) > 1
    named = "; ".join(_named(pair, several) for pair in significant[:_NAMED])
    return f"Significant (p at most 0.05 after Holm's correction): {named}{more}, of {len(comparison.pairs)} compared."


def _named(pair: Pair, several: bool) -> str:
    """A difference as text, with the model if there are several."""
    difference = pair.result.difference
    above, below = (pair.b, pair.a) if difference > 0 else (pair.a, pair.b)
    model = f" of {pair.model}" if several else ""
    points = f"{percent(abs(difference))} points"
    return f"{above}{model} is {points} above {below} on {pair.bench} (over {pair.measured.unit})"


def _health(runs: Sequence[RunSummary]) -> str:
    """The alarms of all training runs, and the runs that have learnt from cut rollouts alone."""
    trained = {run.name: run.alarms for run in runs if run.metrics}
    cut = [run.name for run in runs if run.metrics and _all_cut(run)]
    words = f" Nearly every rollout was cut by rollout.max_new_tokens in {', '.join(cut)}." if cut else ""
    return alarm_sentence(trained) + words if trained else ""


def _all_cut(run: RunSummary) -> bool:
    shares = [line["truncated"] for line in run.metrics if line.get("truncated") is not None]
    return bool(shares) and sum(shares) / len(shares) >= _CUT


def alarm_sentence(alarms: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A sentence on the alarms of training.

    Args:
        alarms: run -> lines of its alarms.jsonl.
    """
    raised = {name: sorted({line["alarm"] for line in lines}) for name, lines in alarms.items() if lines}
    if not raised:
        return "No alarm was raised in training."
    runs = [f"{name} ({', '.join(kinds)})" for name, kinds in raised.items()]
    return f"Alarms in training: {'; '.join(runs)}."


def _percent(method: Method, bench: str) -> str:
    return f"{percent(method.average(bench)[0])} %"
