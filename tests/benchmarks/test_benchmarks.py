"""The programs in benchmarks/ run, at their smallest sizes."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import phf

from phfcli.core.models.description import load_description
from phfcli.core.models.token_alignment import same_tokens
from phfcli.core.shipped_files import embedded_model, embedded_problems

__all__ = ["phf"]

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


def test_turned_entries_are_all_clipped_ones_of_a_forward_kl(capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(BENCHMARKS / "turned_entries.py"))
    program["main"].__globals__.update(VOCABULARY=50, TOKENS=40)
    program["main"]()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 18
    assert {row[-1] for row in rows if row[0] == "forward_kl"} == {"100"}


@pytest.mark.slow
def test_it_makes_two_models_that_share_neither_width_nor_tokenizer(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bridge_benchmark", BENCHMARKS / "bridge.py")
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    for name in program.MODELS:
        program.make(name, tmp_path, share=0.0015)
    student, teacher = (load_description(str(tmp_path / name)) for name in ("student", "teacher"))
    assert (student.config.hidden_size, teacher.config.hidden_size) == (96, 128)
    assert not same_tokens(student.tokenizer, teacher.tokenizer)
    assert same_tokens(student.tokenizer, load_description("embedded").tokenizer)
    solution = "<think>\n37+8=45\n</think>"
    assert len(teacher.tokenizer.encode(solution)) == len(solution) > len(student.tokenizer.encode(solution))


@pytest.mark.slow
def test_right_and_wrong_rollouts_make_up_all_and_others_are_refused(phf: Callable[..., Any], tmp_path: Path) -> None:
    flows = tmp_path / "flows.safetensors"
    assert phf("collect", "embedded", "--data", "embedded", "--samples", 16, "-o", flows).code == 0
    command = [
        sys.executable,
        str(BENCHMARKS / "flow_by_answer.py"),
        str(flows),
        "--model",
        "embedded",
        "--data",
        "embedded",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    right, wrong = found["right"], found["wrong"]
    assert right["rollouts"] + wrong["rollouts"] == found["all"]["rollouts"] == 16
    assert min(right["rollouts"], wrong["rollouts"]) > 0  # the embedded model solves about half
    together = sum(own["rollouts"] * own["mean_energy"] for own in (right, wrong)) / 16
    assert together == pytest.approx(found["all"]["mean_energy"], abs=2e-5)
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "2 + 2 = ?", "answer": "4", "solution": "4"}\n')
    refused = subprocess.run([*command[:-1], str(other)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "16 of 16 rollouts answer no problem of" in refused.stderr


@pytest.mark.slow
def test_a_run_that_is_killed_ends_the_same() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / "kill_train.py"), "--kills", "1", "--steps", "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 steps, bitwise the same after 1 stop" in done.stdout


@pytest.mark.slow
def test_size_and_power_of_a_few_simulations() -> None:
    options = ["--simulations", "200", "--problems", "12", "--points", "2,25"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "paired_test.py", *options], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["size"] < 0.1
    assert told["power"]["2 points"] < told["power"]["25 points"]


def test_the_difference_and_its_error_by_hand() -> None:
    compare = runpy.run_path(str(BENCHMARKS / "parity" / "run.py"), run_name="benchmark")["_compare"]
    row = compare("grpo", [(0.70, 0.72), (0.74, 0.70)])
    assert row["difference"] == pytest.approx(0.01)
    # deviations 0.04 / sqrt 2 and 0.02 / sqrt 2, two seeds: sqrt((0.0008 + 0.0002) / 2)
    assert row["stderr"] == pytest.approx(0.0005**0.5)
    assert compare("sft", [(0.7, 0.7)])["stderr"] is None


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(BENCHMARKS / "parity" / "run.py"),
        "--trl-python",
        sys.executable,
        "--only",
        "ppo",
        "--folder",
        str(tmp_path),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == "--only ppo: choose of sft, grpo, opsd, not ppo\n"
    assert not any(tmp_path.iterdir())


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


def test_in_a_file_no_cell_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from harness.tables import Table

    cells = [f"{place}: 40.0 (38.2 to 41.5)" for place in range(12)]
    Table("A step", "a note", [f"column {place}" for place in range(12)], [cells]).show()
    out = capsys.readouterr().out
    assert all(cell in out for cell in cells)
