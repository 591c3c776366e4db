"""Writes the page of a study, its picture and its figures as JSON, from the records alone; it may be half done."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from phfcli.core.reporting.figures import figure_of, save_figure
from phfcli.core.storage.files import write_json, write_text
from phfcli.core.studies.charts import panel_size, panels
from phfcli.core.studies.page import page
from phfcli.core.studies.plan import Study
from phfcli.core.studies.rates import searched
from phfcli.core.studies.results import Results, Row, results_of


def write_report(study: Study, file: Path) -> Path:
    """Returns the page's path. Raises UserError for a record that is not the study's."""
    path, results = Path(study.page), results_of(study)
    write_json(path.with_suffix(".json"), _figures(study, results))
    drawn = panels(study, results)
    if drawn:
        save_figure(figure_of(drawn, size=panel_size(results)), path.with_suffix(".png"))
    write_text(path, page(study, results, file, path))
    return path


def _figures(study: Study, results: Results) -> dict[str, Any]:
    search = [{"run": run.name, "rate": run.rate, "average": score} for run, score in searched(study)]
    return {
        "study": study.model_dump(mode="json"),
        "finished": results.finished,
        "wanted": results.wanted,
        "search": search,
        "rows": [_row(row) for row in results.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "system": row.system,
        "title": row.title,
        "bench": row.bench,
        "seeds": [record["seed"] for record in row.records],
        "averages": row.averages,
        "difference": asdict(row.difference) if row.difference else None,
        "pass_at": row.pass_at(),
        "distinct_answers": row.mean("distinct_answers"),
        "mean_tokens": row.mean("mean_tokens"),
    }
