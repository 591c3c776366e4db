"""What the records of a study say: a row for each system on each model and benchmark, with seeds as the unit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from phfcli.core.analysis.paired_difference import PairedDifference, holm, paired_difference
from phfcli.core.analysis.seed_difference import SeedDifference, seed_difference
from phfcli.core.evaluation.average import standard_error
from phfcli.core.studies.plan import BASE, Study, runs_of
from phfcli.core.studies.rates import known_runs
from phfcli.core.studies.record import read_record

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A system minus the baseline at the last step, on one model and benchmark.

    over_seeds: would another training differ?
    over_problems: do these checkpoints, of the first seed that both have, differ on other problems?
    corrected: the p-value over seeds, corrected for all the study's comparisons (Holm); None for a single seed.
    """

    over_seeds: SeedDifference
    over_problems: PairedDifference
    corrected: float | None = None


@dataclass(frozen=True)
class Row:
    """One system on one model and benchmark.

    averages: by step the Average@n of each seed; step 0 is the model itself.
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
        """The mean over seeds of a figure of the last evaluation."""
        found = [self._last(record).get(name) for record in self.records]
        known = [value for value in found if value is not None]
        return fmean(known) if known else None

    def pass_at(self) -> tuple[str, float] | None:
        """The largest k for which pass@k is known, and its mean over seeds."""
        own = [self._last(record).get("pass_at_k") or {} for record in self.records]
        if not all(own):
            return None
        k = max(own[0], key=int)
        return k, fmean(passes[k] for passes in own)

    def error(self) -> tuple[float | None, str]:
        """The standard error of the final average, and over what: seeds, or for one seed problems."""
        if len(self.final) > 1:
            return standard_error(np.array(self.final)), "seeds"
        value = self._last(self.records[0]).get("stderr")
        return (None if value is None else float(value)), "problems"

    @property
    def energy(self) -> dict[str, Any] | None:
        """How the hidden flow's energy lies over depth at the end, in the first record that has it."""
        return next((record["energy"] for record in self.records if record.get("energy")), None)

    def scores(self, seed: int) -> dict[str, list[float]]:
        record = next(record for record in self.records if record["seed"] == seed)
        return {problem: [share] for problem, share in self._last(record)["scores"].items()}

    def _last(self, record: Record) -> dict[str, Any]:
        evaluation: dict[str, Any] = record["evaluations"][str(self.last)][self.bench]
        return evaluation


@dataclass(frozen=True)
class Results:
    """All rows of a study, in the order of its file, and how complete they are."""

    rows: list[Row]
    finished: int
    wanted: int

    def of(self, model: str, bench: str) -> list[Row]:
        return [row for row in self.rows if (row.model, row.bench) == (model, bench)]

    def benches(self, model: str) -> list[str]:
        return list(dict.fromkeys(row.bench for row in self.rows if row.model == model))

    def systems(self, model: str) -> list[Row]:
        """Every system on the model once: the rows of its first benchmark."""
        return [row for bench in self.benches(model)[:1] for row in self.of(model, bench)]


def results_of(study: Study) -> Results:
    """Reads the records. Raises UserError for one that is not the study's."""
    records = [record for run in known_runs(study) if (record := read_record(run)) is not None]
    rows = [
        row for model in study.models for name in (BASE, *study.systems) for row in _rows(study, model, name, records)
    ]
    return Results(_corrected(_compared(study, rows)), len(records), len(runs_of(study)))


def _rows(study: Study, model: str, system: str, records: Sequence[Record]) -> list[Row]:
    own = tuple(record for record in records if (record["model"], record["system"]) == (model, system))
    if not own:
        return []
    title = "base model" if system == BASE else study.systems[system].title
    benches = list(
        dict.fromkeys(bench for record in own for found in record["evaluations"].values() for bench in found)
    )
    return [Row(model, system, title, bench, own, _averages(own, bench)) for bench in benches]


def _averages(records: Sequence[Record], bench: str) -> dict[int, list[float]]:
    steps = [int(step) for step in records[0]["evaluations"]]
    return {step: [record["evaluations"][str(step)][bench]["average"] for record in records] for step in steps}


def _compared(study: Study, rows: Sequence[Row]) -> list[Row]:
    """The rows with their difference to the baseline, paired by seed; the model itself is paired with every seed."""
    to = {(row.model, row.bench): row for row in rows if row.system == study.baseline}
    return [
        replace(row, difference=_difference(row, to.get((row.model, row.bench))))
        if row.system != study.baseline
        else row
        for row in rows
    ]


def _difference(row: Row, baseline: Row | None) -> Difference | None:
    if baseline is None:
        return None
    own = {record["seed"]: value for record, value in zip(row.records, row.final, strict=True)}
    pairs = [
        (own.get(record["seed"], own[0] if row.system == BASE else None), value, record["seed"])
        for record, value in zip(baseline.records, baseline.final, strict=True)
    ]
    known = [(a, b, seed) for a, b, seed in pairs if a is not None]
    if not known:
        return None
    first = known[0][2]
    over_problems = paired_difference(row.scores(0 if row.system == BASE else first), baseline.scores(first))
    return Difference(seed_difference([a - b for a, b, _ in known]), over_problems)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """Holm's correction over every comparison of methods that has an interval over seeds; the base model is none."""
    told = {place: _p_value(row) for place, row in enumerate(rows)}
    tested = {place: value for place, value in told.items() if value is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [_with_corrected(row, corrected.get(place)) for place, row in enumerate(rows)]


def _p_value(row: Row) -> float | None:
    return row.difference.over_seeds.p_value if row.difference and row.system != BASE else None


def _with_corrected(row: Row, value: float | None) -> Row:
    return replace(row, difference=replace(row.difference, corrected=value)) if row.difference else row
