"""What a study has found, in sentences: what is shown, what is a null, what it cannot show."""

from collections.abc import Iterator

from phfcli.core.studies.plan import BASE, Study
from phfcli.core.studies.results import Results, Row

_LEVEL = 0.05
_WANTED = 0.03  # half the width of an interval that one would like to have
WANTED_COLUMN = f"for ± {100 * _WANTED:g}"


def findings(study: Study, results: Results) -> list[str]:
    """Three sentences: what is shown, what is a null, what this cannot show."""
    shown, null, single = [], [], []
    for row in results.rows:
        if row.difference is None or row.system == BASE:
            continue
        name, over = f"{row.title}{_place(results, row)}", row.difference.over_seeds
        if row.difference.corrected is None:
            single.append(name)
        elif row.difference.corrected <= _LEVEL:
            shown.append(f"{name} by {100 * over.difference:+.1f} points")
        else:
            null.append(name)
    to = study.systems[study.baseline].title
    lines = [
        f"- **Shown** (p at most {_LEVEL:g} after Holm's correction, seeds as the unit), against {to}: "
        f"{'; '.join(shown) or 'nothing'}.",
        f"- **Null**, not told apart from {to}: {'; '.join(null) or 'nothing'}.",
        f"- **What this cannot show**: {study.limits.strip()}",
    ]
    if single:
        lines.append(f"- **One seed only**, so no statement about the method: {'; '.join(single)}.")
    return [*lines, *_width(results)]


def _place(results: Results, row: Row) -> str:
    """Which of several benchmarks and models a row is of."""
    bench = f" on {row.bench}" if len({other.bench for other in results.rows}) > 1 else ""
    return bench + (f" ({row.model})" if len({other.model for other in results.rows}) > 1 else "")


def _width(results: Results) -> Iterator[str]:
    """How many intervals are wider than one would like."""
    several = [row for row in results.rows if row.difference and row.difference.over_seeds.low is not None]
    compared = [row for row in several if row.system != BASE]
    if wide := [row for row in compared if wanted_seeds(row) is not None]:
        wanted = f"± {100 * _WANTED:g} points"
        yield (
            f"- **Width**: {len(wide)} of {len(compared)} intervals over seeds are wider than {wanted}; the column "
            f"`{WANTED_COLUMN}` says how many seeds that spread as these do it would take."
        )


def wanted_seeds(row: Row) -> int | None:
    """How many seeds an interval of the wanted width takes, where this one is wider."""
    over = row.difference.over_seeds if row.difference else None
    if over is None or over.low is None or over.high is None or over.high - over.low <= 2 * _WANTED:
        return None
    return over.seeds_for(_WANTED)
