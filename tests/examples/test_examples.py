"""The examples run as they stand, and stay short."""

import json
import runpy
import sys
import threading
from ast import literal_eval
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from phfcli.core import extensions
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.types import Request, Sampling

FOLDER = Path(__file__).parents[2] / "examples"
MOST_LINES = 40
USES = ("reproduce_paper", "own_problems", "evaluate_only", "hidden_states")  # what people come for: in 20 lines
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs an example as a program of its own would be, in this process; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def example(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    yield example
    for added in extensions._registered.values():
        added.clear()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    if path.stem == "trl_phf":
        pytest.skip("it is a trainer of its own, with the settings of another library")
    assert len(path.read_text().splitlines()) <= (20 if path.stem in USES else MOST_LINES)


@pytest.mark.slow
def test_the_table_of_the_paper_is_made_for_a_small_model(run: Run) -> None:
    assert "phf - opsd" in run("reproduce_paper.py", "embedded", "embedded-dev", "2")


@pytest.mark.slow
def test_own_problems_are_trained_and_evaluated_on(run: Run, tmp_path: Path) -> None:
    assert "trained - base" in run("own_problems.py", "embedded", "2")
    assert len([*tmp_path.glob("runs/data/*.jsonl")]) == 2


def test_an_evaluation_shows_its_wrong_answers(run: Run) -> None:
    shown = run("evaluate_only.py")
    assert "Evaluation(embedded, n 4" in shown
    assert "gold answer" in shown


def test_hidden_states_are_read_and_drawn(run: Run, evaluated_run: Path, tmp_path: Path) -> None:
    energies = json.loads(run("hidden_states.py", str(evaluated_run)).partition("layer: ")[2])
    assert len(energies) == 4
    assert min(energies) > 0
    assert (tmp_path / "layers.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("completion", "right"),
    [("```python\ndouble = lambda x: 2 * x\n```", True), ("```\ndouble = lambda x: x\n```", False), ("2 x", False)],
)
def test_a_code_answer_is_run_by_the_sandbox_alone(
    monkeypatch: pytest.MonkeyPatch, completion: str, right: bool
) -> None:
    passes = runpy.run_path(str(FOLDER / "code_grader.py"))["passes"]
    with pytest.raises(KeyError, match="CODE_SANDBOX"):
        passes("assert True", "```\nx = 1\n```")
    monkeypatch.setenv("CODE_SANDBOX", f"{sys.executable} -I -")
    assert passes("assert double(4) == 8", completion) == right


@pytest.mark.slow
def test_a_token_weighting_trains(run: Run, tmp_path: Path) -> None:
    assert "teacher_entropy" in run("token_weighting.py")
    assert (tmp_path / "runs/unsure-tokens-embedded-seed0/checkpoints/step-000002").is_dir()


@pytest.mark.slow
def test_a_hidden_state_loss_trains(run: Run) -> None:
    assert "apart" in run("hidden_loss.py")


@pytest.mark.slow
def test_the_base_teaches_without_a_file_of_its_own(run: Run) -> None:
    assert "step 2 of 2" in run("base_teacher.py")


@pytest.mark.slow
def test_a_tracker_keeps_each_step_in_its_database(run: Run, tmp_path: Path) -> None:
    rows = [literal_eval(line) for line in run("sqlite_tracker.py").splitlines() if line.startswith("(")]
    lines = (tmp_path / "runs/phf-embedded-seed0/metrics.jsonl").read_text().splitlines()
    assert rows == [(metrics["step"], metrics["loss"]) for metrics in map(json.loads, lines)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_flow_trains_inside_trl(run: Run) -> None:
    losses = json.loads(run("trl_phf.py").splitlines()[-1])
    assert len(losses) == 2


def test_a_benchmark_is_graded_by_its_own_rule(run: Run, tmp_path: Path) -> None:
    assert "parity" in run("own_benchmark.py")
    [samples] = tmp_path.glob("runs/embedded/evals/parity-n4/samples.jsonl")
    assert {json.loads(line)["answer"] for line in samples.read_text().splitlines()} <= {"even", "odd", None}


@pytest.fixture
def server(embedded: LanguageModel) -> Iterator[str]:
    """Draws from the embedded model, as the example's protocol has it."""
    engine = TransformersEngine(embedded)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sampling = Sampling(asked["temperature"], max_new_tokens=asked["max_new_tokens"])
            [(_, drawn)] = engine.sample([Request(tuple(asked["prompt"]), asked["seed"])], sampling, logprobs=False)
            body = json.dumps({"ids": drawn.ids, "stop": drawn.finish == "stop"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_an_engine_draws_from_its_server(run: Run, server: str) -> None:
    assert "Evaluation(embedded, n 1" in run("served_engine.py", server)
