"""`benchmarks/whole_step.py` measures every phase of a step, and the products of the tokens that it computes."""

from pathlib import Path

import pytest

from phfcli.core.shipped_files import embedded_model, embedded_problems

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_every_phase_is_measured_and_shared_tokens_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import whole_step
    from harness.processes import run_contender

    task = whole_step.make_task(embedded_model(), embedded_problems("train"), "opsd", "float32", tokens=8, batch=4)
    task |= {"repeats": 1, "threads": 1}
    own = run_contender("own_step", task)
    (step,) = own["steps"]
    assert all(step[phase] > 0 for phase in whole_step.PHASES)
    assert sum(step[phase] for phase in whole_step.PHASES) <= step["seconds"]
    useful = own["useful"]
    assert len(useful["completions"]) == 4
    assert useful["prompts"] < useful["student"] <= useful["prompts"] + sum(useful["completions"])
    (bare,) = run_contender("bare_step", task | {"useful": useful})["steps"]
    assert 0 < bare["seconds"] < step["seconds"]
