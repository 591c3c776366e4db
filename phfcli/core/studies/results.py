"""The results of a study from its records: rows, differences over seeds, and findings in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from phfcli.core.analysis.differences import (
    PairedDifference,
    SeedDifference,
    common_variance,
    holm,
    paired_difference,
    pooled_difference,
    seed_difference,
    unpaired_difference,
)
from phfcli.core.errors import points
from phfcli.core.evaluation.scores import standard_error
from phfcli.core.studies.record import read_record
from phfcli.core.studies.schedule import known_runs
from phfcli.core.studies.study_file import BASE, Study, runs_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """The score of a system minus that of the baseline at the last step, on one model and benchmark.

    Attributes:
        over_seeds: answers whether other trainings would differ.
        over_problems: answers whether the checkpoints of the first common seed would differ on other problems.
        corrected: the p-value over seeds with Holm's correction for all comparisons of the study; None for a single
            seed.
    """

    over_seeds: SeedDifference
    over_problems: PairedDifference
    corrected: float | None = None


@dataclass(frozen=True)
class Row:
    """One system on one model and benchmark.

    Attributes:
        averages: step -> Average@n of each seed; step 0 is the model without training.
    """

    model: str
    system: str
    title: str
    bench: str
    records: tuple[Record, ...]
    averages: dict[int, list[float]]
    difference: Difference | None = None

    @property
    def last(self) -> int:
        return max(self.averages)

    @property
    def final(self) -> list[float]:
        return self.averages[self.last]

    def mean(self, name: str) -> float | None:
        """The mean over seeds of a figure in the summary of the last evaluation."""
        values = [self._last(record).get(name) for record in self.records]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def pass_at(self) -> tuple[str, float] | None:
        """The largest k for which pass@k is known, and pass@k, mean over seeds."""
        seeds = [self._last(record).get("pass_at_k") or {} for record in self.records]
        if not all(seeds):
            return None
        k = max(seeds[0], key=int)
        return k, fmean(passes[k] for passes in seeds)

    def error(self) -> tuple[float | None, str]:
        """The standard error of the final average, and its unit: "seeds", or "problems" for a single seed."""
        if len(self.final) > 1:
            return standard_error(np.array(self.final)), "seeds"
        value = self._last(self.records[0]).get("stderr")
        return (None if value is None else float(value)), "problems"

    def by_seed(self, measure: str) -> dict[int, float]:
        """The "average" or the "greedy" score of each seed's last evaluation, where it is known."""
        scores = {record["seed"]: self._last(record).get(measure) for record in self.records}
        return {seed: score for seed, score in scores.items() if score is not None}

    @property
    def energy(self) -> dict[str, Any] | None:
        """The energy of each layer at the last step, from the first record that has it."""
        return next((record["energy"] for record in self.records if record.get("energy")), None)

    def scores(self, seed: int) -> dict[str, list[float]]:
        """Problem -> share of right samples of a seed's last evaluation."""
        record = next(record for record in self.records if record["seed"] == seed)
        return {problem: [share] for problem, share in self._last(record)["scores"].items()}

    def _last(self, record: Record) -> dict[str, Any]:
        evaluation: dict[str, Any] = record["evaluations"][str(self.last)][self.bench]
        return evaluation


@dataclass(frozen=True)
class Results:
    """All rows of a study in the order of its file, and the numbers of finished and of all runs."""

    rows: list[Row]
    finished: int
    wanted: int

    def of(self, model: str, bench: str) -> list[Row]:
        return [row for row in self.rows if (row.model, row.bench) == (model, bench)]

    def benches(self, model: str) -> list[str]:
        return list(dict.fromkeys(row.bench for row in self.rows if row.model == model))

    def systems(self, model: str) -> list[Row]:
        """A row for every system on the model: those of the first benchmark."""
        return [row for bench in self.benches(model)[:1] for row in self.of(model, bench)]


def results_of(study: Study) -> Results:
    """Reads the records of a study. Raises UserError for a record with other settings than the study's."""
    records = [record for run in known_runs(study) if (record := read_record(run)) is not None]
    rows = [
        row for model in study.models for name in (BASE, *study.systems) for row in _rows(study, model, name, records)
    ]
    return Results(_corrected(_compared(study, rows)), len(records), len(runs_of(study)))


def _rows(study: Study, model: str, system: str, records: Sequence[Record]) -> list[Row]:
    matching = tuple(record for record in records if (record["model"], record["system"]) == (model, system))
    if not matching:
        return []
    title = "base model" if system == BASE else study.systems[system].title
    benches = list(
        dict.fromkeys(bench for record in matching for step in record["evaluations"].values() for bench in step)
    )
    return [Row(model, system, title, bench, matching, _averages(matching, bench)) for bench in benches]


def _averages(records: Sequence[Record], bench: str) -> dict[int, list[float]]:
    steps = [int(step) for step in records[0]["evaluations"]]
    return {step: [record["evaluations"][str(step)][bench]["average"] for record in records] for step in steps}


def _compared(study: Study, rows: Sequence[Row]) -> list[Row]:
    """The rows with their differences from the baseline, paired by seed; the base model is paired with every seed."""
    baselines = {(row.model, row.bench): row for row in rows if row.system == study.baseline}
    return [
        replace(row, difference=_difference(row, baselines.get((row.model, row.bench))))
        if row.system != study.baseline
        else row
        for row in rows
    ]


def _difference(row: Row, baseline: Row | None) -> Difference | None:
    if baseline is None:
        return None
    by_seed = {record["seed"]: value for record, value in zip(row.records, row.final, strict=True)}
    pairs = [
        (by_seed.get(record["seed"], by_seed[0] if row.system == BASE else None), value, record["seed"])
        for record, value in zip(baseline.records, baseline.final, strict=True)
    ]
    known = [(a, b, seed) for a, b, seed in pairs if a is not None]
    if not known:
        return None
    first = known[0][2]
    over_problems = paired_difference(row.scores(0 if row.system == BASE else first), baseline.scores(first))
    return Difference(seed_difference([a - b for a, b, _ in known]), over_problems)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """Holm's correction over all comparisons of systems with an interval over seeds, without the base model."""
    p_values = {index: _p_value(row) for index, row in enumerate(rows)}
    tested = {index: value for index, value in p_values.items() if value is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [_with_corrected(row, corrected.get(index)) for index, row in enumerate(rows)]


def _p_value(row: Row) -> float | None:
    return row.difference.over_seeds.p_value if row.difference and row.system != BASE else None


def _with_corrected(row: Row, value: float | None) -> Row:
    return replace(row, difference=replace(row.difference, corrected=value)) if row.difference else row


MEASURES = ("average", "greedy")
_ENOUGH = 3  # seeds; with fewer a study cannot tell that two systems are alike


@dataclass(frozen=True)
class Answer:
    """What the records say of a comparison that the study's file asks, on one model and one measure.

    Attributes:
        measure: "average" of the samples, or "greedy".
        own: by the seeds of both systems alone: paired where each pair starts from the same weights and problems, else
            by Welch's t; None with fewer than three seeds.
        shared: with one variance for all systems; None where Levene's test speaks against it.
        corrected: the p-value of `shared`, or else of `own`, corrected by Holm for all planned comparisons.
        planned: whether the comparison stood in the study's file when each of the runs was made.
    """

    model: str
    name: str
    measure: str
    own: SeedDifference | None
    shared: SeedDifference | None
    corrected: float | None
    planned: bool

    @property
    def difference(self) -> SeedDifference | None:
        return self.shared or self.own

    @property
    def p_value(self) -> float | None:
        return self.difference.p_value if self.difference else None


def answers(study: Study, results: Results) -> list[Answer]:
    """An answer to each comparison that the study's file asks, on each model's first benchmark and each measure."""
    found: list[Answer] = []
    for model in study.models if study.planned else ():
        rows = {row.system: row for row in results.systems(model)}
        for measure in MEASURES:
            groups = [list(row.by_seed(measure).values()) for name, row in rows.items() if name != BASE]
            spread = common_variance(groups)
            for asked in study.planned:
                pair = rows.get(asked.system), rows.get(asked.minus)
                found.append(_answer(model, asked.name, measure, pair, spread))
    p_values = {index: answer.p_value for index, answer in enumerate(found) if answer.planned}
    tested = {index: value for index, value in p_values.items() if value is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [replace(answer, corrected=corrected.get(index)) for index, answer in enumerate(found)]


def _answer(
    model: str, name: str, measure: str, pair: tuple[Row | None, Row | None], spread: tuple[float, int] | None
) -> Answer:
    a, b = ({} if row is None else row.by_seed(measure) for row in pair)
    records = {(row.system, record["seed"]): record for row in pair if row for record in row.records}
    planned = bool(records) and all(name in record.get("planned", ()) for record in records.values())
    if min(len(a), len(b)) < _ENOUGH:
        return Answer(model, name, measure, None, None, None, planned)
    starts = {str(record.get("starts_from")) for record in records.values()}
    paired = a.keys() == b.keys() and len(starts) == 1 and starts != {"None"}
    own = seed_difference([a[s] - b[s] for s in a]) if paired else unpaired_difference([*a.values()], [*b.values()])
    shared = None if spread is None else pooled_difference([*a.values()], [*b.values()], spread)
    return Answer(model, name, measure, own, shared, None, planned)


LEVEL = 0.05  # of the tests
_WANTED = 0.03  # the desired half-width of an interval over seeds
WANTED_COLUMN = f"seeds for ± {100 * _WANTED:g} points"


def findings(study: Study, results: Results) -> list[str]:
    """Sentences on the comparisons: shown, null, open, and what the study cannot show."""
    shown: list[str] = []
    open_: list[str] = []
    null: list[Row] = []
    few: list[Row] = []
    single: list[Row] = []
    for row in results.rows:
        if row.difference is None or row.system == BASE:
            continue
        if row.difference.corrected is None:
            single.append(row)
        elif row.difference.corrected <= LEVEL:
            shown.append(_by(results, row))
        elif (uncorrected := row.difference.over_seeds.p_value) is not None and uncorrected <= LEVEL:
            open_.append(_by(results, row))
        elif len(row.final) < _ENOUGH:
            few.append(row)
        else:
            null.append(row)
    to = study.systems[study.baseline].title
    exploratory = ["- **Exploratory**: what follows was not planned; what was is in a table of its own."]
    lines = [
        *(exploratory if study.planned else []),
        f"- **Shown** (p at most {LEVEL:g} after Holm's correction, seeds as the unit), against {to}: "
        f"{'; '.join(shown) or 'nothing'}.",
        f"- **Null**, no difference from {to} shown: {_listed(results, null) or 'nothing'}.",
    ]
    if few:
        lines.append(f"- **Cannot tell**, too few seeds: {_listed(results, few)}.")
    if partly := list(_partly_paired(study, results)):
        lines.append(f"- **Unequal seeds**, so the difference is over the common ones alone: {'; '.join(partly)}.")
    if open_:
        lines.append(f"- **Open**, different from {to} before but not after the correction: {'; '.join(open_)}.")
    lines.append(f"- **What this cannot show**: {study.limits.strip()}")
    if single:
        lines.append(f"- **One seed only**, so no statement about the method: {_listed(results, single)}.")
    return [*lines, *_width(results)]


def _partly_paired(study: Study, results: Results) -> Iterator[str]:
    """The systems of which some seeds, or some of the baseline's, have no partner."""
    for model in study.models:
        rows = {row.system: row for row in results.systems(model)}
        baseline = rows.get(study.baseline)
        for row in rows.values():
            if row.difference is None or baseline is None or row.system == BASE:
                continue
            most = max(len(row.final), len(baseline.final))
            if 1 < row.difference.over_seeds.seeds < most:
                where = f" of {model}" if len(study.models) > 1 else ""
                yield f"{row.title}{where} ({row.difference.over_seeds.seeds} of {most})"


def _by(results: Results, row: Row) -> str:
    assert row.difference is not None
    return f"{_listed(results, [row])} by {points(row.difference.over_seeds.difference)} points"


def _listed(results: Results, rows: Sequence[Row]) -> str:
    """The systems of the rows, with model and benchmarks if the study has several of these."""
    models, benches = ({getattr(row, name) for row in results.rows} for name in ("model", "bench"))
    benches_of: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row.title} of {row.model}" if len(models) > 1 else row.title
        benches_of.setdefault(name, []).append(row.bench)
    return "; ".join(f"{name} ({', '.join(shown)})" if len(benches) > 1 else name for name, shown in benches_of.items())


def _width(results: Results) -> Iterator[str]:
    """A sentence on the number of intervals that are wider than desired."""
    several = [row for row in results.rows if row.difference and row.difference.over_seeds.low is not None]
    compared = [row for row in several if row.system != BASE]
    if wide := [row for row in compared if wanted_seeds(row) is not None]:
        wanted = f"± {100 * _WANTED:g} points"
        yield (
            f"- **Width**: {len(wide)} of {len(compared)} intervals over seeds are wider than {wanted}; the column "
            f"`{WANTED_COLUMN}` gives the number of seeds needed at the present spread."
        )


def wanted_seeds(row: Row) -> int | None:
    """The number of seeds for an interval of the desired width; None if this one is narrow enough."""
    over = row.difference.over_seeds if row.difference else None
    if over is None or over.low is None or over.high is None or over.high - over.low <= 2 * _WANTED:
        return None
    return over.seeds_for(_WANTED)
