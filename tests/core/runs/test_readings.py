"""A run follows a few of its own rollouts: the same tokens, read again at each checkpoint."""

import json
from pathlib import Path

import pytest

from phfcli.core.errors import UserError
from phfcli.core.reporting.report_page import write_report
from phfcli.core.runs.readings import load_readings


def test_the_same_rollouts_are_read_again(run: Path) -> None:
    first, second = load_readings(run)
    assert (first["step"], second["step"]) == (1, 2)
    assert len(first["rollouts"]) == 4
    for before, after in zip(first["rollouts"], second["rollouts"], strict=True):
        assert before["completion"] == after["completion"]
        assert "".join(before["tokens"]).startswith("<think>")
        assert before["student"] != after["student"]
        assert all(len(before[name]) == len(before["tokens"]) for name in ("student", "teacher", "divergence"))
        assert all(0 <= p <= 1 for name in ("student", "teacher") for p in before[name])
        for whole, taken in zip(before["divergence"], before["clip_took"], strict=True):
            assert 0 <= taken <= whole + 1e-5
        assert set(before["flow"]) <= {str(place) for place in range(len(before["tokens"]))}
        assert "reference solution" in before["context"]
        assert "reference solution" not in before["problem"]


def test_a_damaged_file_is_named(run: Path) -> None:
    (run / "rollouts" / "step-000002.json").write_text(json.dumps({"step": 2, "rollouts": [{}]}))
    with pytest.raises(UserError, match=r"step-000002.json: rollouts.0.student_prompt: field required"):
        load_readings(run)


@pytest.mark.slow
def test_the_report_shows_them_escaped(run: Path, tmp_path: Path) -> None:
    path = run / "rollouts" / "step-000002.json"
    tree = json.loads(path.read_text())
    tree["rollouts"][0]["tokens"][0] = "<script>alert(1)</script>"
    path.write_text(json.dumps(tree))
    page = tmp_path / "report.html"
    write_report(page, [str(run)], "A run")
    text = page.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert text.count("<dt>step 1</dt>") == text.count("<dt>step 2</dt>") == 3
    assert "the clip removes" in text
