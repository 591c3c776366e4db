"""The contenders of `benchmarks/step.py` do the same work: their losses agree, step after step."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_our_step_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness import models, processes

    model = models.make_model(tmp_path / "model", layers=2, width=128, vocabulary=1000)
    rollouts = models.make_rollouts(2, student=8, teacher=20, completion=200, vocabulary=1000)
    task = {"model": str(model), "device": "cpu", "micro_batch_size": 1, "rollouts": rollouts, "repeats": 2}
    task |= {"threads": 1, "objective": "phf"}  # in micro-batches of one, against the whole batch at once
    own, plain = (processes.run_contender(name, task)["losses"] for name in ("own", "plain"))
    assert own == pytest.approx(plain, rel=2e-5)
    assert own[-1] < own[0]
