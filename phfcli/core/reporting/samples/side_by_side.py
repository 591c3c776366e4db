"""The samples of two evaluations of one benchmark on one page."""

from pathlib import Path

from phfcli.core.analysis.compare import Comparison, Pair
from phfcli.core.errors import UserError
from phfcli.core.evaluation.page.sample_page import ShownRun, write_pair_page
from phfcli.core.evaluation.sample_file import GradedSample, SampleFile
from phfcli.core.evaluation.saved_evaluations import SavedEvaluation
from phfcli.core.storage.tables import read_rows
from phfcli.core.types import Problem


def write_side_by_side(path: Path, comparison: Comparison) -> None:
    """Writes the page of two evaluations, with the difference of their averages above them.

    Raises:
        UserError: for more or fewer than two, those of two benchmarks, and one without samples.parquet.
    """
    results = comparison.results
    if len(results) != 2 or results[0].bench != results[1].bench:
        given = ", ".join(f"{result.name} on {result.bench}" for result in results)
        raise UserError(
            f"--samples: shows two evaluations of one benchmark; choose them by their paths and --bench. Given: {given}"
        )
    tables = [_rows(result) for result in results]
    problems = {
        row["problem"]: Problem(row["problem"], row["question"], answer=row["gold"]) for rows in tables for row in rows
    }
    first, second = (ShownRun(result.name, result.summary, rows) for result, rows in zip(results, tables, strict=True))
    sentence = "; ".join(_difference(pair) for pair in comparison.pairs)
    write_pair_page(path, first, second, list(problems.values()), sentence)


def _difference(pair: Pair) -> str:
    """The difference in points, its interval, and what the interval is over."""
    result = pair.result
    told = f"{pair.b} - {pair.a}: {100 * result.difference:+.1f} points"
    if result.low is None or result.high is None:
        return told
    interval = f"95% interval {100 * result.low:+.1f} to {100 * result.high:+.1f}, over {pair.measured.unit}"
    return f"{told} ({interval})"


def _rows(result: SavedEvaluation) -> list[GradedSample]:
    """The rows of the table of samples, which holds the problems' texts as well."""
    table = SampleFile(result.folder).table
    if not table.is_file():
        raise UserError(f"--samples: {table} is missing; the same `phf eval` again writes it, without new samples")
    return [dict(row) for row in read_rows(table)]
