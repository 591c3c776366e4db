"""The learning rate of each family of losses: the one whose short run scores best on the problems of the search."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from phfcli.core.studies.plan import Study, StudyRun, runs_of, search_runs
from phfcli.core.studies.record import read_record

Rates = dict[tuple[str, str], float]  # by model and family


def known_runs(study: Study) -> list[StudyRun]:
    """The runs of the tables, with their rates; those whose family's rate is still searched are left out."""
    rates = chosen_rates(study)
    runs = [(run, study.systems[run.system].family if run.trains else None) for run in runs_of(study)]
    return [
        run if family is None else replace(run, rate=rates[run.model, family])
        for run, family in runs
        if family is None or (run.model, family) in rates
    ]


def chosen_rates(study: Study) -> Rates:
    """The rate of each model and family whose runs of the search are all finished.

    Of two rates that score the same the smaller one is taken.
    """
    families = study.search.rates if study.search else {}
    rates = {(model, family): own[0] for model in study.models for family, own in families.items() if len(own) == 1}
    tried: dict[tuple[str, str], list[tuple[StudyRun, float | None]]] = {}
    for run, score in searched(study):
        tried.setdefault((run.model, study.systems[run.system].family or ""), []).append((run, score))
    for key, scored in tried.items():
        known = [(score, -(run.rate or 0)) for run, score in scored if score is not None]
        if len(known) == len(scored):
            rates[key] = -max(known)[1]
    return rates


def searched(study: Study) -> Sequence[tuple[StudyRun, float | None]]:
    """The runs of the search with what they scored; None for one that is missing."""
    return [(run, _score(read_record(run))) for run in search_runs(study)]


def _score(record: dict[str, Any] | None) -> float | None:
    if record is None:
        return None
    (evaluations,) = record["evaluations"].values()
    (evaluation,) = evaluations.values()
    return float(evaluation["average"])
