"""What a study has found, in sentences: what is shown, what is a null, what it cannot show."""

from collections.abc import Iterator, Sequence

from phfcli.core.studies.plan import BASE, Study
from phfcli.core.studies.results import Results, Row

_LEVEL = 0.05
_WANTED = 0.03  # half the width of an interval that one would like to have
WANTED_COLUMN = f"seeds for ± {100 * _WANTED:g} points"


def findings(study: Study, results: Results) -> list[str]:
    """Sentences: what is shown, what is a null, what is open, what this cannot show."""
    shown: list[str] = []
    open_: list[str] = []
    null: list[Row] = []
    single: list[Row] = []
    for row in results.rows:
        if row.difference is None or row.system == BASE:
            continue
        if row.difference.corrected is None:
            single.append(row)
        elif row.difference.corrected <= _LEVEL:
            shown.append(_by(results, row))
        elif (alone := row.difference.over_seeds.p_value) is not None and alone <= _LEVEL:
            open_.append(_by(results, row))
        else:
            null.append(row)
    to = study.systems[study.baseline].title
    lines = [
        f"- **Shown** (p at most {_LEVEL:g} after Holm's correction, seeds as the unit), against {to}: "
        f"{'; '.join(shown) or 'nothing'}.",
        f"- **Null**, not told apart from {to}: {_listed(results, null) or 'nothing'}.",
    ]
    if open_:
        lines.append(f"- **Open**, told apart from {to} alone but not after the correction: {'; '.join(open_)}.")
    lines.append(f"- **What this cannot show**: {study.limits.strip()}")
    if single:
        lines.append(f"- **One seed only**, so no statement about the method: {_listed(results, single)}.")
    return [*lines, *_width(results)]


def _by(results: Results, row: Row) -> str:
    assert row.difference is not None
    return f"{_listed(results, [row])} by {100 * row.difference.over_seeds.difference:+.1f} points"


def _listed(results: Results, rows: Sequence[Row]) -> str:
    """Each system once, with the benchmarks and models of its rows where there are several of these."""
    models, benches = ({getattr(row, name) for row in results.rows} for name in ("model", "bench"))
    places: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row.title} of {row.model}" if len(models) > 1 else row.title
        places.setdefault(name, []).append(row.bench)
    return "; ".join(f"{name} ({', '.join(own)})" if len(benches) > 1 else name for name, own in places.items())


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
