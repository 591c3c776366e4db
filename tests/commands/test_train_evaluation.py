"""phf train --eval-every: the steps do not notice, the best checkpoint is kept, a run without progress ends."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, checkpoint_steps, evaluations, same_end

from phfcli.core.runs.folder import step_name
from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]

PLAIN = (*SMALL, "--set", "divergence.clip=null")
FEW = ("--set", "evaluation.limit=4", "--set", "evaluation.n=2")


@pytest.mark.slow
def test_evaluations_leave_no_trace_on_the_steps_and_resume(phf: Phf, tmp_path: Path) -> None:
    without, run, cut = tmp_path / "without", tmp_path / "with", tmp_path / "cut"
    options = ("--steps", 4, "--checkpoint-every", 4, *PLAIN)
    assert phf("train", *options, "--output-dir", without).code == 0
    done = phf("train", *options, *FEW, "--eval-every", 2, "--output-dir", run, "--json")
    assert done.code == 0
    assert same_end(without, run, 4)
    assert checkpoint_steps(run) == [2, 4]
    first, second = evaluations(run)
    assert (first["step"], second["step"], first["bench"]) == (2, 4, "embedded-dev")
    assert (first["problems"], first["n"]) == (4, 2)
    best = max(evaluations(run), key=lambda line: line["average"])
    assert {key: done.json["best"][key] for key in best} == best
    assert (run / "best").readlink() == Path("checkpoints", step_name(best["step"]))

    shutil.copytree(run, cut, symlinks=True)
    os.truncate(cut / "checkpoints" / step_name(4) / "adapter_model.safetensors", 100)
    assert phf("train", "--resume", "--output-dir", cut, "--quiet").code == 0
    assert same_end(run, cut, 4)
    assert evaluations(run) == evaluations(cut)

    told = phf("eval", run / "best", "--engine", "transformers", "--limit", 1, "--n", 1, "--json", "--quiet")
    assert told.json["benches"][0]["step"] == best["step"]


@pytest.mark.slow
def test_a_run_without_progress_ends_and_keeps_its_best(phf: Phf, tmp_path: Path) -> None:
    run = tmp_path / "run"
    still = ("--set", "optim.lr=1e-12", "--steps", 6, "--checkpoint-every", 6, "--keep", 1, *PLAIN, *FEW)
    options = ("--eval-every", 1, "--output-dir", run, *still)
    done = phf("train", *options, "--patience", 2)
    assert done.code == 0
    assert [line["step"] for line in evaluations(run)] == [1, 2, 3]
    assert len({line["average"] for line in evaluations(run)}) == 1
    assert f"best       {run}/best: step 1, " in done.out
    assert "; stopped early after step 3\n" in done.out
    assert checkpoint_steps(run) == [1, 3]
    assert phf("train", *options, "--patience", 2, "--resume").code == 0
    assert len(evaluations(run)) == 3  # it stays ended
    assert phf("train", *options, "--patience", 3, "--resume").code == 0
    assert len(evaluations(run)) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--patience", 2), "evaluation.patience: there is nothing to wait for without evaluation.every"),
        (("--eval-every", 2, "--eval-bench", "embeded"), "did you mean 'embedded'?"),
        (("--eval-every", 2, "--model", str(embedded_model()), "--data", "embedded"), "in evaluation.bench"),
        (("--eval-every", 2, "--set", "evaluation.max_new_tokens=5000"), "of the model's context"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(phf: Phf, tmp_path: Path, options: Any, words: str) -> None:
    done = phf("train", *options, *PLAIN, "--set", "optim.horizon_steps=100", "--output-dir", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not (tmp_path / "run").exists()
