"""phf study: a small study as a user runs it, stopped and given again; mistakes in its file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from phfcli.core.objectives.build import build_objective
from phfcli.core.settings import Source, resolve_train
from phfcli.core.studies.schedule import estimate
from phfcli.core.studies.study_file import Part, load_study, runs_of

STUDIES = Path(__file__).parents[2] / "studies"
SMALL: dict[str, Any] = {
    "title": "small",
    "question": "Does it run?",
    "limits": "Anything.",
    "folder": "runs",
    "records": "docs/records",
    "page": "docs/page.md",
    "models": {"embedded": {"model": "embedded"}},
    "set": {"batch_size": 4, "rollout": {"max_new_tokens": 32}},
    "benches": ["embedded-dev"],
    "eval": {"n": 1, "limit": 8, "engine": "transformers", "max_new_tokens": 32},
    "evaluated": [2],
    "baseline": "opsd",
    "seeds": 1,
    "systems": {"opsd": {"title": "OPSD", "set": {"objective": "opsd"}}},
}


def write(tmp_path: Path, **changes: Any) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SMALL | changes))
    return file


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_studies_are_equal_in_rollouts(file: Path) -> None:
    """Each system of a study has the same number of rollouts; other files there are settings of a command."""
    tree = yaml.safe_load(file.read_text())
    if "systems" not in tree:
        assert "model" in tree or "bench" in tree
        return
    runs = [run for run in runs_of(load_study(file)) if run.trains]
    configs = [resolve_train([Source(run.name, run.training())]) for run in runs]
    assert len({config.batch_size * build_objective(config).needs.group_size for config in configs}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"opsd": {"title": "O", "set": {"objectiv": "opsd"}}}}, "systems.opsd: objectiv: unknown key"),
        (
            {"systems": {"opsd": {"title": "O", "set": {"optim": {"lr": -1}}}}},
            "systems.opsd: optim.lr: must be greater",
        ),
        ({"eval": {"nn": 1}}, "eval: nn: unknown key"),
        ({"seeds": None, "seedz": 1}, "study.yaml: seedz: unknown key; did you mean 'seeds'?"),
        ({"systems": {"opsd": {"titel": "O"}}}, "systems.opsd.titel: unknown key; did you mean 'title'?"),
        ({"baseline": "phf"}, "baseline: 'phf' is none of its systems"),
        ({"evaluated": [2, 3]}, "evaluated: must be rising multiples of the first"),
        ({"systems": {"../up": {"title": "O"}}}, "systems"),
        ({"page": "docs/page.html"}, "page"),
        ({"systems": {"opsd": {"title": "O", "family": "f"}}}, "search.rates has no 'f'"),
        (
            {"planned": [{"system": "opds", "minus": "opsd"}]},
            "planned: 'opds' is none of the systems; did you mean 'opsd'?",
        ),
        (
            {"planned": [{"system": "opsd", "minus": "opsd"} for _ in range(2)]},
            "planned: 'opsd - opsd' stands there twice",
        ),
        ({"set": {"steps": 3}}, "set.steps: the study decides this, by its 'evaluated'; leave it out"),
        ({"eval": {"bench": ["embedded"]}}, "eval.bench: the study decides this, by its 'benches'"),
        ({"models": {"embedded": {"model": "embedded", "seed": 1}}}, "models.embedded.seed: the study decides this"),
        (
            {"systems": {"opsd": {"title": "O", "set": {"objective": "opsd", "seed": 5}}}},
            "systems.opsd.set.seed: the study decides this, by its 'seeds'",
        ),
        ({"systems": {name: {"title": "O"} for name in ("opsd", "sft")}}, "systems: two have the title 'O'"),
        (
            {"search": {"rates": {"f": [1e-3, 1.0000001e-3]}, "steps": 1, "bench": "embedded"}},
            "search.rates.f: two rates print as 0.001; keep one",
        ),
        ({"search": {"rates": {"f": [1e-3, 1e-4]}, "steps": 1, "bench": "embedded"}}, "search.rates.f: none of the"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(
    phf: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    done = phf("study", write(tmp_path, **changes), "--dry-run")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_file_that_is_not_there_is_one_line_with_the_nearest_name(phf: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path)
    done = phf("study", "studdy.yaml", "--dry-run")
    assert (done.code, done.err) == (2, "phf: studdy.yaml: no such file; did you mean 'study.yaml'?\n")
    assert phf("study", "other/study.yaml", "--dry-run").err == "phf: other/study.yaml: no such file\n"


def test_an_unknown_system_is_one_line(phf: Callable[..., Any], tmp_path: Path) -> None:
    done = phf("study", write(tmp_path), "--only", "opds")
    assert done.code == 2
    assert "--only: the study has no system 'opds'; did you mean 'opsd'?" in done.err


def test_the_dry_run_counts_what_is_left(phf: Callable[..., Any], tmp_path: Path) -> None:
    left = phf("study", write(tmp_path), "--dry-run", "--json").json
    assert left == {"runs": 2, "steps": 2, "evaluations": 2, "job_hours": None}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 10**9}, "seeds: must be less than or equal to 1000"),
        ({"systems": {"opsd": {"title": "O", "seeds": 10**9}}}, "systems.opsd.seeds: must be less than or equal to"),
        ({"processes": 10**9}, "processes: must be less than or equal to 1024"),
        ({"benches": ["nowhere.jsonl"]}, "nowhere.jsonl: no such file"),
        ({"models": {"mine": {"model": "./nowhere"}}}, "./nowhere: no such model folder"),
        ({"page": "file/page.md"}, "page file/page.md: "),
        ({"folder": "/proc/runs"}, "folder /proc/runs: cannot be written"),
        ({"records": "file/records"}, "records file/records: "),
        ({"eval": {"engine": "http://me:hunter2@host:1"}}, "a password in a URL would be written into files"),
        (
            {"systems": {"sft": {"title": "S", "set": {"objective": "sft", "data": "nowhere.csv"}}}, "baseline": "sft"},
            "",
        ),
        ({"systems": {"opsd": {"title": "O", "set": {"report_to": ["wandbb"]}}}}, "wandbb"),
        ({"models": {"embedded": {"model": "embedded", "device": "cuda"}}}, "cuda"),
    ],
)
def test_the_dry_run_looks_at_what_a_night_would_fall_over(
    phf: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "file").touch()
    done = phf("study", write(tmp_path, **changes), "--dry-run")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert "hunter2" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "study.yaml"]


def test_the_dry_run_counts_the_part_that_is_asked_for(phf: Callable[..., Any], tmp_path: Path) -> None:
    """The searches too are those that its systems need."""
    systems = {
        "opsd": {"title": "OPSD", "family": "output", "set": {"objective": "opsd"}},
        "phf": {"title": "PHF", "family": "output", "seeds": 3, "set": {"objective": "phf"}},
        "sft": {"title": "SFT", "family": "policy", "set": {"objective": "sft"}},
    }
    search = {"rates": {"output": [1e-3, 1e-4], "policy": [1e-3]}, "steps": 1, "bench": "embedded-dev"}
    file = write(tmp_path, systems=systems, search=search)

    def left(*only: str, seeds: int | None = None) -> tuple[int, int]:
        found = estimate(load_study(file), Part(frozenset(only), seeds))
        return found.runs, found.steps

    found = phf("study", file, "--dry-run", "--json", "--only", "sft").json
    assert (found["runs"], found["steps"]) == (2, 2)
    assert left() == (1 + 2 + 5, 2 * 1 + 5 * 2)  # the base, the searches, the trainings
    assert left("phf", seeds=2) == (1 + 2 + 2, 2 * 1 + 2 * 2)
    assert left(seeds=1) == (1 + 2 + 3, 2 * 1 + 3 * 2)


@pytest.mark.parametrize(
    "options", [("--only", "opsd"), ("--seeds", 1), ("--jobs", 2), ("--dry-run",)], ids=lambda options: options[0]
)
def test_a_page_alone_is_of_the_whole_study(
    phf: Callable[..., Any], tmp_path: Path, options: tuple[object, ...]
) -> None:
    done = phf("study", write(tmp_path), "--report-only", *options)
    assert (done.code, options[0] in done.err, "--report-only" in done.err) == (2, True, True)
    assert not (tmp_path / "docs").exists()


@pytest.mark.slow
def test_a_study_that_was_stopped_and_killed_goes_on(tmp_path: Path) -> None:
    file = write(tmp_path)
    command = [sys.executable, "-m", "phfcli", "study", str(file), "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    record, run = tmp_path / "docs/records/embedded/base-seed0.json", tmp_path / "runs/embedded/opsd-seed0"

    def interrupted(number: signal.Signals, begun: Path) -> str:
        study = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        study.send_signal(number)
        return study.communicate()[1]

    words = interrupted(signal.SIGTERM, run.with_suffix(".log"))
    assert "embedded/opsd-seed0 stopped" in words
    first = record.stat().st_mtime_ns
    assert "failed" not in words + interrupted(signal.SIGKILL, run / "metrics.jsonl")
    time.sleep(5)  # what it had started sees that its parent has gone
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "embedded/opsd-seed0 finished" in again.stderr
    assert record.stat().st_mtime_ns == first  # not made again
    figures = json.loads((tmp_path / "docs/page.json").read_text())
    assert (figures["finished"], figures["wanted"]) == (2, 2)
    evaluation = json.loads((tmp_path / "docs/records/embedded/opsd-seed0.json").read_text())["evaluations"]
    assert list(evaluation) == ["2"]
    assert list(evaluation["2"]) == ["embedded-dev"]


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_made(phf: Callable[..., Any], tmp_path: Path) -> None:
    bad = {"title": "bad", "set": {"objective": "opsd", "data": str(tmp_path / "missing.jsonl")}}
    done = phf("study", write(tmp_path, systems={"opsd": bad}), "--jobs", "1")
    assert done.code == 1
    assert "failed     see runs/embedded/opsd-seed0.log" in done.out
    assert "missing.jsonl" in (tmp_path / "runs/embedded/opsd-seed0.log").read_text()
    assert "**Not complete: 1 of 2 runs are finished.**" in (tmp_path / "docs/page.md").read_text()
