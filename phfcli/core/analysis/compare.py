"""Compares evaluations: groups them by method, and tests each pair of methods.

Two intervals answer two questions. Over seeds: would other trainings differ? Over problems: would these checkpoints
differ on other problems? For the latter the score of a problem is the mean over seeds.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from phfcli.core.analysis.differences import PairedDifference, Scores, SeedDifference, holm
from phfcli.core.analysis.gain import GainFinding, forgotten, gain_findings
from phfcli.core.analysis.methods import Method, MethodDifference, group_by_method, measure, sample_scores
from phfcli.core.errors import UserError, percent, points
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation, steps_of, validated_steps
from phfcli.core.names import UnitName
from phfcli.core.runs.folder import step_name

SUITE = "average"  # the name of the mean over benchmarks

# evaluations that differ in one of these measure different things
_MUST_MATCH = ("bench_sha256", "prompt", "sampling", "grading")
# differences that are allowed, and noted
_NOTED = ("n", "engine", "dtype", "seed", "versions", "device")
_CONSEQUENCES = {
    "n": ": each average is over its own samples, and the one of fewer is less certain; pass@k and majority do not "
    "compare; evaluate both with the same n"
}  # the consequence of an allowed difference for the comparison
_SOLVED = 0.5  # a problem counts as solved if more than this share of its samples is right


@dataclass(frozen=True)
class Pair:
    """The difference b - a of two methods on a benchmark, or on the mean of several.

    Attributes:
        model: the model of b.
        bench: the benchmark, or SUITE.
        measured: the difference, with its intervals over problems and over seeds.
        p_holm: the p-value of the result, corrected for all pairs.
        gain: what kinds of gain the difference is.
        gained, lost: the problems that b solves and a does not, and the other way round.
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
        """The difference over the unit that was chosen."""
        return self.measured.result

    def as_json(self) -> dict[str, Any]:
        head = {"model": self.model, "bench": self.bench, "a": self.a, "b": self.b, **self.measured.as_json()}
        named = [asdict(finding) for finding in self.gain]
        return head | {"p_holm": self.p_holm, "gain": named, "gained": self.gained, "lost": self.lost}


@dataclass(frozen=True)
class ChosenCheckpoint:
    """A checkpoint that is the best of several of its run, so that its score holds some chance as gain.

    Attributes:
        among: the number of checkpoints.
        crossed: the score without that chance: chosen on one half of the problems and scored on the other, both ways,
            mean over 200 halvings; None where the other checkpoints' scores by problem are not known.
    """

    run: str
    bench: str
    step: int
    among: int
    average: float
    crossed: float | None

    @property
    def sentence(self) -> str:
        head = f"{self.bench}: {self.run} has its best score, {percent(self.average)} %, at step {self.step}"
        if self.crossed is None:
            return f"{head}, the best of {self.among} by evaluations of the same benchmark, so it holds chance as gain"
        how = f"{percent(self.crossed)} % where it is chosen on one half of the problems and scored on the other"
        return f"{head}, the best of {self.among} checkpoints; {how}"


@dataclass(frozen=True)
class Gate:
    """A condition on a score that a caller asked for, as a sentence, and whether it holds."""

    sentence: str
    passed: bool


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison, which tables and pictures show; `notes` name the settings that differ."""

    results: list[SavedEvaluation]
    methods: list[Method]
    pairs: list[Pair]
    notes: list[str]
    tested: bool  # if False, a method may hold several checkpoints of a run, and its averages mix them
    chosen: Sequence[ChosenCheckpoint] = ()

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
            "chosen": [asdict(one) for one in self.chosen],
        }


def compare(
    results: list[SavedEvaluation], unequal: bool = False, tested: bool = True, unit: UnitName | None = None
) -> Comparison:
    """Pools seeds, refuses evaluations that were sampled differently, and tests every pair of methods of one model.

    Args:
        unequal: whether evaluations with other prompts, sampling or grading are compared too.
        tested: whether differences are tested. False allows several checkpoints of a run in one method.
        unit: the unit of the intervals; None is seeds if both methods have several, else problems.

    Raises:
        UserError: evaluations of one benchmark differ in its rows, or without `unequal` in prompts, sampling or
            grading.
    """
    methods = group_by_method(results, split_checkpoints=tested)
    notes = [note for bench in dict.fromkeys(r.bench for r in results) for note in _check(results, bench, unequal)]
    notes += [note for a, b in combinations(methods, 2) if tested for note in _unequal_seeds(a, b)]
    differences = list(_differences(methods, unit)) if tested else []
    corrected = holm([measured.p_value for _, _, _, measured in differences])
    pairs = []
    for (bench, a, b, measured), p in zip(differences, corrected, strict=True):
        gained, lost = changed(a, b, bench) if bench in a.benches else ([], [])
        gain = gain_findings(a, b, bench, measured) if bench in a.benches else []
        pairs.append(Pair(b.model, bench, a.name, b.name, measured, p, gain, gained, lost))
    chosen = [*_best_of_steps(results)] if not tested else [found for r in results if (found := _chosen(r))]
    return Comparison(results, methods, _with_forgetting(pairs), notes, tested, chosen)


def gates(
    comparison: Comparison, at_least: float | None, yardstick: Collection[Path], margin: float | None
) -> list[Gate]:
    """The conditions that a caller sets: a lowest average, and no inferiority to a yardstick by more than a margin.

    A method is not inferior if its whole 95% interval against the yardstick lies above -margin, which is a test at
    2.5%. Each benchmark counts for itself.

    Args:
        at_least: the lowest average, as a share; None sets no such condition.
        yardstick: the folders of the yardstick's evaluations; empty sets no such condition.
        margin: in shares; None without a yardstick.

    Raises:
        UserError: there is nothing to compare with the yardstick.
    """
    references = {m.name for m in comparison.methods if any(result.folder in yardstick for result in m.results)}
    found: list[Gate] = []
    for method in comparison.methods:
        for bench in method.benches if at_least is not None and method.name not in references else ():
            score = method.average(bench)[0]
            passed = at_least is None or score >= at_least
            word = "not below" if passed else "below"
            words = f"{bench}: {method.name} {percent(score)} %, {word} {percent(at_least)} %"
            found.append(Gate(words, passed))
    compared: list[Gate] = []
    for pair in comparison.pairs:
        if margin is None or pair.bench == SUITE or len({pair.a, pair.b} & references) != 1:
            continue
        sign, name, to = (1, pair.b, pair.a) if pair.a in references else (-1, pair.a, pair.b)
        ends = [sign * end for end in (pair.result.low, pair.result.high) if end is not None]
        passed = bool(ends) and min(ends) > -margin
        word = "is" if passed else "is not shown to be"
        words = f"{pair.bench}: {name} {word} at least as good as {to} but for {percent(margin)} points"
        lowest = points(min(ends, default=None))
        compared.append(Gate(f"{words} ({points(sign * pair.result.difference)}, at least {lowest})", passed))
    if margin is not None and not compared:
        raise UserError(f"{', '.join(references)}: no other method of the same model and benchmark is given")
    return [*found, *compared]


def _unequal_seeds(first: Method, method: Method) -> Iterator[str]:
    """A sentence if a method is paired with the first one by some of the seeds alone."""
    seeds = [{result.seed for result in m.results if result.seed is not None} for m in (first, method)]
    common = seeds[0] & seeds[1]
    if len(common) > 1 and seeds[0] != seeds[1]:
        pairs = ", ".join(map(str, sorted(common)))
        yield f"{first.name} and {method.name} have other seeds: over seeds only the common ones count, {pairs}"


def _chosen(result: SavedEvaluation) -> ChosenCheckpoint | None:
    """Whether a single checkpoint looks like a choice: the best of its run's, and not the last one."""
    step, evaluated = result.step, (Path(result.home) / "evals").glob("step-*")
    if step is None:
        return None
    steps = steps_of(result) if any(path.name > step_name(step) for path in evaluated) else {}
    if steps and step < max(steps):
        return _choice(result.name, result.bench, steps, step)
    validated = validated_steps(result)
    if step < max(validated, default=0) and step == max(validated, key=lambda other: (validated[other], -other)):
        return ChosenCheckpoint(result.name, result.bench, step, len(validated), result.summary["average"], None)
    return None


def _best_of_steps(results: Sequence[SavedEvaluation]) -> Iterator[ChosenCheckpoint]:
    """The best checkpoint of each run of which several are shown."""
    runs: dict[tuple[str, str, str], dict[int, SavedEvaluation]] = {}
    for result in results:
        if result.step is not None:
            runs.setdefault((result.home, result.name, result.bench), {})[result.step] = result
    for (_, name, bench), steps in runs.items():
        best = max(steps, key=lambda step: (steps[step].summary["average"], -step))
        if len(steps) > 1 and (found := _choice(name, bench, steps, best)):
            yield found


def _choice(name: str, bench: str, steps: Mapping[int, SavedEvaluation], step: int) -> ChosenCheckpoint | None:
    """The choice of a step, with the score that it has without the choice's chance; None if it is not the best one."""
    averages = {number: result.summary["average"] for number, result in steps.items()}
    if averages[step] < max(averages.values()):
        return None
    crossed = crossed_score([steps[number].scores for number in sorted(steps)])
    return ChosenCheckpoint(name, bench, step, len(steps), averages[step], crossed)


_HALVINGS = 200


def crossed_score(candidates: Sequence[Scores]) -> float | None:
    """The score of the best candidate, chosen on one half of the problems and scored on the other, both ways.

    The mean over random halvings. The earliest of equals is chosen. None where fewer than two problems are common.
    """
    common = sorted(set.intersection(*(set(scores) for scores in candidates)))
    if len(common) < 2:
        return None
    means = np.array([[fmean(scores[problem]) for problem in common] for scores in candidates])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_HALVINGS):
        order = rng.permutation(len(common))
        halves = order[: len(common) // 2], order[len(common) // 2 :]
        for chosen_on, scored_on in (halves, halves[::-1]):
            best = int(means[:, chosen_on].mean(axis=1).argmax())
            found.append(means[best, scored_on].mean())
    return float(np.mean(found))


def _with_forgetting(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, with a note where the same two methods lost on other benchmarks what they gained on this one."""
    results = {(p.a, p.b, p.model, p.bench): p.result for p in pairs if p.bench != SUITE}
    return [
        replace(
            pair,
            gain=[
                *pair.gain,
                *forgotten(
                    pair.result,
                    {
                        bench: result
                        for (*methods, bench), result in results.items()
                        if methods == [pair.a, pair.b, pair.model] and bench != pair.bench
                    },
                ),
            ],
        )
        for pair in pairs
    ]


def changed(a: Method, b: Method, bench: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The problems that only b solves, and those that only a solves: more than half of the samples are right.

    Each entry has both shares of right samples, and links to a right sample of the method that solves the problem and
    to a wrong one of the other method.
    """
    scores_a, scores_b = a.scores(bench), b.scores(bench)
    gained: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for problem in sorted(scores_a.keys() & scores_b.keys()):
        shares = [math.fsum(scores[problem]) / len(scores[problem]) for scores in (scores_a, scores_b)]
        solved = [share > _SOLVED for share in shares]
        if solved[0] == solved[1]:
            continue
        links = [_example(method.of(bench), problem, right) for method, right in zip((a, b), solved, strict=True)]
        entry = {"problem": problem, "a": shares[0], "b": shares[1], "sample_a": links[0], "sample_b": links[1]}
        (gained if solved[1] else lost).append(entry)
    for entries in (gained, lost):
        entries.sort(key=lambda entry: -abs(entry["b"] - entry["a"]))
    return gained, lost


def _example(results: Sequence[SavedEvaluation], problem: str, right: bool) -> str | None:
    """The link to a right or wrong sample of a problem, or None."""
    for result in results:
        for sample in result.samples.get(problem, []):
            if sample.correct == right:
                return result.link(problem, sample.number)
    return None


def _differences(
    methods: Sequence[Method], unit: UnitName | None
) -> Iterator[tuple[str, Method, Method, MethodDifference]]:
    """The difference of every two methods of one model on each benchmark and, if there are several, on their mean.

    If no model has two methods, methods of different models are compared.
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
    """Sentences on settings that differ between a benchmark's evaluations. Raises UserError if they must match."""
    evaluations = [result for result in results if result.bench == bench]
    for key in (*_MUST_MATCH, *_NOTED):
        values = [result.settings.get(key) for result in evaluations]
        if any(value is None for value in values):
            unknown = [r.name for r, value in zip(evaluations, values, strict=True) if value is None]
            if key in _MUST_MATCH:
                yield f"{bench}: {key} of {', '.join(unknown)} is not known"
        known = [(result, value) for result, value in zip(evaluations, values, strict=True) if value is not None]
        for result, value in known[1:]:
            first, wanted = known[0]
            if value == wanted:
                continue
            sentence = f"{bench}: {key} {_difference(wanted, value)} ({first.name} and {result.name})"
            if key == "bench_sha256":
                raise UserError(
                    f"{first.name} and {result.name}: their copies of {bench} differ in rows, so they do not compare"
                )
            if key in _MUST_MATCH and not unequal:
                raise UserError(f"{sentence}: evaluations that differ in it do not compare, unless unequal is set")
            yield f"{sentence}{_CONSEQUENCES.get(key, '')}"


def _difference(a: Any, b: Any) -> str:
    """Two values as "a / b"; of mappings only the fields that differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return ", ".join(f"{k} {a.get(k)} / {b.get(k)}" for k in a | b if a.get(k) != b.get(k))
    return f"{a} / {b}"
