"""The Python API, as a notebook calls it: results, errors, and that the commands do the same."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from trained import same_end

import phfcli as phf
from phfcli.core.config import EvalConfig
from phfcli.core.evaluation.benchmarks import load_benchmark
from phfcli.core.names import TEACHERS

CONFIG = {"batch_size": 4, "rollout.max_new_tokens": 48}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> phf.Run:
    """Two steps of PHF."""
    return phf.train(steps=2, config=CONFIG, output_dir=tmp_path_factory.mktemp("runs") / "phf", progress=False)


@pytest.fixture(scope="module")
def scores(run: phf.Run) -> phf.Evaluation:
    return phf.evaluate(run, "embedded", n=2, limit=4, engine="transformers", progress=False)


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)


def test_the_import_is_light() -> None:
    heavy = "torch", "transformers", "pandas", "pydantic", "matplotlib", "numpy", "typer"
    done = python(f"import phfcli, sys; print([name for name in {heavy} if name in sys.modules])")
    assert done.stdout.strip() == "[]"


def test_a_run_is_bitwise_that_of_the_command(run: phf.Run, evaluated_run: Path) -> None:
    assert same_end(run.folder, evaluated_run, 2)


def test_a_run_tells_itself(run: phf.Run) -> None:
    assert (run.step, run.done, run.config.steps) == (2, True, 2)
    assert [path.name for path in run.checkpoints] == ["step-000002"]
    assert repr(run).startswith("Run('")
    assert "phf on embedded, step 2 of 2, loss 0." in repr(run)
    assert "<table" in run._repr_html_()
    frame = run.metrics.to_pandas()
    assert list(frame.index) == [1, 2]
    assert {"loss", "flow", "grad_norm", "tokens_per_s"} <= set(frame.columns)
    assert phf.load_run(str(run.folder)) == run


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_second_call_takes_a_new_folder() -> None:
    folders = [phf.train(steps=1, config=CONFIG, progress=False).folder for _ in range(3)]
    names = ["phf-embedded-seed0", "phf-embedded-seed0-2", "phf-embedded-seed0-3"]
    assert [folder.name for folder in folders] == names


def test_an_evaluation_has_frames(scores: phf.Evaluation) -> None:
    table, samples, problems = scores.to_pandas(), scores.samples(), scores.problems()
    assert list(table["bench"]) == ["embedded"]
    assert table["average"][0] == scores.average == samples["correct"].mean()
    assert len(samples) == 8
    assert len(problems) == 4
    assert (
        list(problems["problem"]) == [problem.id for problem in load_benchmark("embedded", EvalConfig()).problems][:4]
    )  # not as finished
    assert list(samples["sample"]) == [0, 1] * 4
    assert problems["correct"].mean() == pytest.approx(scores.average)
    assert repr(scores).startswith("Evaluation(phf step 2, n 2: embedded ")
    assert scores["embedded"] == scores
    with pytest.raises(KeyError):
        scores["aime24"]


@pytest.mark.usefixtures("here")
def test_two_evaluations_at_once_are_served_one_after_the_other() -> None:
    def score(bench: str) -> float:
        return phf.evaluate("embedded", bench, n=1, limit=4, engine="transformers", progress=False).average

    benches = ["embedded", "embedded-dev"]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(score, benches))
    alone = [
        phf.evaluate(
            "embedded", bench, n=1, limit=4, engine="transformers", progress=False, output_dir=f"{bench}-alone"
        )
        for bench in benches
    ]
    assert together == [evaluation.average for evaluation in alone]


def test_the_run_knows_its_evaluations(run: phf.Run, scores: phf.Evaluation) -> None:
    assert [evaluation.average for evaluation in run.evaluations] == [scores.average]


@pytest.mark.usefixtures("here")
def test_a_comparison_has_frames(run: phf.Run, scores: phf.Evaluation) -> None:
    base = phf.evaluate("embedded", n=2, limit=4, engine="transformers", progress=False)
    compared = phf.compare({"base": base, "PHF": run})
    assert list(compared.to_pandas()["run"]) == ["base", "PHF"]
    assert list(compared.pairs())[:6] == ["bench", "a", "b", "difference", "low", "high"]
    assert "difference" in repr(compared.pairs())  # of many columns those in the middle are left out
    [pair] = compared.pairs().to_dict("records")
    assert (pair["a"], pair["b"], pair["problems"]) == ("base", "PHF", 4)
    assert pair["difference"] == pytest.approx(scores.average - base.average)
    assert "PHF - base" in repr(compared)
    assert pair["unit"] == "problems"  # a single seed on each side
    with pytest.raises(phf.UserError, match="base has one"):
        phf.compare({"base": base, "PHF": run}, unit="seeds")


def test_a_diagnosis_has_frames(run: phf.Run) -> None:
    report = phf.diagnose(run)
    layers = report.layers()
    assert list(layers["layer"]) == [1, 2, 3, 4]
    assert layers["share"].sum() == pytest.approx(1)
    assert list(report.steps()["step"]) == [2]
    assert "nats" in repr(report)


def test_results_draw_themselves(run: phf.Run, scores: phf.Evaluation) -> None:
    for result in (run, scores, phf.diagnose(run)):
        assert result.plot().get_axes()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_steps_come_one_by_one_and_can_be_stopped() -> None:
    steps = phf.training({"steps": 5, **CONFIG}, output_dir="own")
    seen = []
    for metrics in steps:
        seen.append(metrics["step"])
        if metrics["step"] == 2:
            steps.stop()
    assert seen == [1, 2]
    assert [path.name for path in steps.run.checkpoints] == ["step-000002"]
    assert not steps.run.done


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_an_interrupt_leaves_a_run_that_goes_on() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background ignore

    def interrupt(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        run = phf.train(steps=3, config=CONFIG, progress=False, on_step=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not run.done
    assert run.checkpoints
    assert phf.train(steps=3, config=CONFIG, output_dir=run.folder, resume=True, progress=False).done


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: phf.train(objective="gpro"), "objective: 'gpro' is unknown; did you mean 'grpo'?"),
        (lambda: phf.train(alpha=-1), "alpha: flow.alpha: must be greater than or equal to 0, got -1"),
        (lambda: phf.train(config={"optim.rl": 1}), "optim.rl: unknown key; did you mean 'lr'?"),
        (lambda: phf.train(config="qwen-4b"), "neither a file nor a shipped recipe; did you mean 'qwen3-4b'?"),
        (lambda: phf.evaluate("embedded", "aime26"), "neither a benchmark nor a file; did you mean 'aime2"),
        (lambda: phf.evaluate("embedded", n=0), "n: must be greater than 0, got 0"),
        (lambda: phf.diagnose("nowhere"), "nowhere: no such run, checkpoint or flow file"),
        (lambda: phf.compare(["nowhere"]), "nowhere: no such run, checkpoint or summary"),
        (lambda: phf.compare("a", "b"), "evaluated: compare"),
        (lambda: phf.compare([]), "compare: give the evaluations as one list"),
        (lambda: phf.load_run("nowhere"), "nowhere: no run is there"),
        (lambda: phf.compare([], view="run"), "view: 'run' is unknown; did you mean 'runs'?"),
    ],
)
def test_a_mistake_raises_user_error(call: Callable[[], object], words: str, here: Path) -> None:
    with pytest.raises(phf.UserError, match=words.replace("?", r"\?").replace("(", r"\(")):
        call()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [
        (phf.train, {"stepz": 3}, "train() has no argument 'stepz'; did you mean 'steps'?; a setting"),
        (phf.evaluate, {"samples": 3}, "evaluate() has no argument 'samples'; choose from "),
        (phf.training, {"steps": 3}, "goes into config, as in config={"),
    ],
)
def test_an_argument_that_is_not_there(call: Callable[..., object], given: dict[str, int], words: str) -> None:
    with pytest.raises(TypeError) as caught:
        call(**given)
    assert words in str(caught.value)


@pytest.mark.slow
def test_settings_of_the_call_are_those_of_the_command() -> None:
    config = phf.train(steps=1, config=[CONFIG, {"flow": {"alpha": 0.2}}], progress=False).config
    assert (config.flow.alpha, config.batch_size, config.rollout.max_new_tokens) == (0.2, 4, 48)
    assert json.loads(json.dumps(config.model_dump(mode="json")))["steps"] == 1


def test_the_help_of_train_names_every_teacher() -> None:
    told = phf.train.__doc__ or ""
    assert [name for name in TEACHERS if f'"{name}"' not in told] == []
