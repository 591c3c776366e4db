"""Compares evaluations: groups the seeds of one method, and tests each pair of methods.

Two questions, two intervals. Over seeds: would another training differ? Over problems: would these very checkpoints
differ on other problems? There a problem's score is the mean over the seeds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from phfcli.core.analysis.differences import PairedDifference, SeedDifference, holm
from phfcli.core.analysis.gain import GainFinding, forgotten, gain_findings
from phfcli.core.analysis.methods import Method, MethodDifference, group_by_method, measure, sample_scores
from phfcli.core.errors import UserError
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.names import UnitName

SUITE = "average"  # the name of the mean over benchmarks

_SPOIL = ("bench_sha256", "prompt", "sampling", "grading")  # where they differ, so does what is measured
_LISTED = ("n", "engine", "dtype", "seed", "versions", "device")
_MEANS = {
    "n": ": each average is over its own samples, and the one of fewer is less certain; pass@k and majority do not "
    "compare; evaluate both with the same n"
}  # what a difference that is allowed does to the comparison
_MANY = 0.5  # of a problem's samples: more than these are right where it counts as solved


@dataclass(frozen=True)
class Pair:
    """The difference b - a on a benchmark, or on the mean of several.

    Attributes:
        model: of b.
        measured: over problems, and over seeds where both have several.
        p_holm: of the unit that counts, corrected for all pairs.
        gain: what kind of difference it is, by stated rules.
    """

    model: str
    bench: str
    a: str
    b: str
    measured: MethodDifference
    p_holm: float
    gain: list[GainFinding]
    gained: list[dict[str, Any]]
    lost: list[dict[str, Any]]

    @property
    def result(self) -> PairedDifference | SeedDifference:
        """Over the unit that counts."""
        return self.measured.result

    def as_json(self) -> dict[str, Any]:
        head = {"model": self.model, "bench": self.bench, "a": self.a, "b": self.b, **self.measured.as_json()}
        named = [asdict(finding) for finding in self.gain]
        return head | {"p_holm": self.p_holm, "gain": named, "gained": self.gained, "lost": self.lost}


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, which tables and pictures show; `notes` names settings that differ."""

    results: list[SavedEvaluation]
    methods: list[Method]
    pairs: list[Pair]
    notes: list[str]
    tested: bool  # else an method may hold several steps of a run, and its figures are those of no checkpoint

    @property
    def benches(self) -> list[str]:
        return list(dict.fromkeys(result.bench for result in self.results))

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(method.model for method in self.methods))

    def as_json(self) -> dict[str, Any]:
        rows = [{"name": r.name, "model": r.model, "seed": r.seed, **r.summary} for r in self.results]
        methods = [
            {
                "name": method.name,
                "model": method.model,
                "runs": list(dict.fromkeys(r.name for r in method.results)),
                "benches": {
                    bench: dict(zip(("average", "stderr"), method.average(bench), strict=True))
                    | {"seed_spread": method.seed_spread(bench)}
                    for bench in method.benches
                },
                "average": (method.suite(self.benches) or (None,))[0],
            }
            for method in self.methods
        ]
        return {
            "rows": rows,
            "arms": methods if self.tested else [],
            "pairs": [p.as_json() for p in self.pairs],
            "unequal": self.notes,
        }


def compare(
    results: list[SavedEvaluation], unequal: bool = False, tested: bool = True, unit: UnitName | None = None
) -> Comparison:
    """Pools seeds, refuses evaluations that were sampled differently, and tests every pair of methods of one model.

    Args:
        unequal: compare also evaluations with other prompts or sampling.
        tested: with differences; not where several steps of a run stand for one method.
        unit: of what the intervals speak; None is seeds where both methods have several, else problems.

    Raises:
        UserError: for evaluations of one benchmark whose rows, or without `unequal` whose prompts or sampling, differ.
    """
    methods = group_by_method(results, apart=tested)
    notes = [note for bench in dict.fromkeys(r.bench for r in results) for note in _check(results, bench, unequal)]
    differences = list(_differences(methods, unit)) if tested else []
    corrected = holm([measured.p_value for _, _, _, measured in differences])
    pairs = []
    for (bench, a, b, measured), p in zip(differences, corrected, strict=True):
        gained, lost = changed(a, b, bench) if bench in a.benches else ([], [])
        gain = gain_findings(a, b, bench, measured) if bench in a.benches else []
        pairs.append(Pair(b.model, bench, a.name, b.name, measured, p, gain, gained, lost))
    return Comparison(results, methods, _with_forgetting(pairs), notes, tested)


def _with_forgetting(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, where something was gained with what the same two methods lost on other benchmarks."""
    own = {(p.a, p.b, p.model, p.bench): p.result for p in pairs if p.bench != SUITE}
    return [
        replace(
            pair,
            gain=[
                *pair.gain,
                *forgotten(
                    pair.result,
                    {
                        bench: result
                        for (*methods, bench), result in own.items()
                        if methods == [pair.a, pair.b, pair.model] and bench != pair.bench
                    },
                ),
            ],
        )
        for pair in pairs
    ]


def changed(a: Method, b: Method, bench: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The problems that b solves and a does not, and the other way round; solved is more than half of the samples.

    Each with both shares and a sample to look at: a right one of the method that solves it, a wrong one of the other.
    """
    one, other = a.scores(bench), b.scores(bench)
    gained: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for problem in sorted(one.keys() & other.keys()):
        shares = [math.fsum(scores[problem]) / len(scores[problem]) for scores in (one, other)]
        solved = [share > _MANY for share in shares]
        if solved[0] == solved[1]:
            continue
        links = [_example(method.of(bench), problem, right) for method, right in zip((a, b), solved, strict=True)]
        entry = {"problem": problem, "a": shares[0], "b": shares[1], "sample_a": links[0], "sample_b": links[1]}
        (gained if solved[1] else lost).append(entry)
    for entries in (gained, lost):
        entries.sort(key=lambda entry: -abs(entry["b"] - entry["a"]))
    return gained, lost


def _example(results: Sequence[SavedEvaluation], problem: str, right: bool) -> str | None:
    for result in results:
        for sample in result.samples.get(problem, []):
            if sample.correct == right:
                return result.link(problem, sample.number)
    return None


def _differences(
    methods: Sequence[Method], unit: UnitName | None
) -> Iterator[tuple[str, Method, Method, MethodDifference]]:
    """Every two methods of one model on every benchmark and, where there are several, on their mean.

    Where no model has two methods, methods of different models are compared.
    """
    models = [method.model for method in methods]
    within = len(set(models)) < len(models)
    for a, b in combinations(methods, 2):
        if within and a.model != b.model:
            continue
        shared = [bench for bench in a.benches if b.scores(bench) and a.scores(bench)]
        for bench in shared:
            yield bench, a, b, measure(a, b, [bench], sample_scores, unit)
        if len(shared) > 1:
            yield SUITE, a, b, measure(a, b, shared, sample_scores, unit)


def _check(results: Sequence[SavedEvaluation], bench: str, unequal: bool) -> Iterator[str]:
    """What differs between the evaluations of a benchmark. Raises UserError where it spoils the comparison."""
    own = [result for result in results if result.bench == bench]
    for key in (*_SPOIL, *_LISTED):
        values = [result.settings.get(key) for result in own]
        if any(value is None for value in values):
            unknown = [r.name for r, value in zip(own, values, strict=True) if value is None]
            if key in _SPOIL:
                yield f"{bench}: {key} of {', '.join(unknown)} is not known"
        known = [(result, value) for result, value in zip(own, values, strict=True) if value is not None]
        for result, value in known[1:]:
            first, wanted = known[0]
            if value == wanted:
                continue
            told = f"{bench}: {key} {_difference(wanted, value)} ({first.name} and {result.name})"
            if key == "bench_sha256":
                raise UserError(
                    f"{first.name} and {result.name}: their copies of {bench} differ in rows, so they do not compare"
                )
            if key in _SPOIL and not unequal:
                raise UserError(f"{told}: evaluations that differ in it do not compare, unless unequal is set")
            yield f"{told}{_MEANS.get(key, '')}"


def _difference(a: Any, b: Any) -> str:
    """Two values as "a / b", of objects only the fields that differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return ", ".join(f"{k} {a.get(k)} / {b.get(k)}" for k in a | b if a.get(k) != b.get(k))
    return f"{a} / {b}"
