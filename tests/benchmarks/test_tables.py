"""Tables of benchmarks."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_in_a_file_no_cell_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness.tables import Table

    cells = [f"{place}: 40.0 (38.2 to 41.5)" for place in range(12)]
    Table("A step", "a note", [f"column {place}" for place in range(12)], [cells]).show()
    out = capsys.readouterr().out
    assert all(cell in out for cell in cells)
