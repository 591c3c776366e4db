"""The program `benchmarks/study/run.py`: its figures by hand, and a small study as a user would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "benchmarks" / "study"
sys.path.insert(0, str(FOLDER))

from plan import Study, StudyRun, load_study, runs_of  # noqa: E402
from report import difference, write_report  # noqa: E402

from phfcli.core.config import TrainConfig  # noqa: E402
from phfcli.core.settings import file_sources, option_source, resolve_train, set_sources  # noqa: E402

AVERAGES = {"base": (0.5, 0.54), "opsd": (0.8, 0.82), "phf": (0.83, 0.81), "grpo": (0.7,)}


def settings_of(options: tuple[str, ...]) -> TrainConfig:
    pairs = list(zip(options[::2], options[1::2], strict=True))
    files = file_sources(value for name, value in pairs if name == "--config")
    given = [option_source(name, name[2:], value) for name, value in pairs if name not in ("--config", "--set")]
    return resolve_train([*files, *given, *set_sources(value for name, value in pairs if name == "--set")])


def small(tmp_path: Path) -> Study:
    study = load_study(FOLDER / "study.yaml")
    systems = {name: study.systems[name] for name in ("opsd", "phf", "grpo")}
    return study.model_copy(update={"folder": str(tmp_path / "runs"), "seeds": 2, "steps": (1, 2), "systems": systems})


def write_runs(study: Study) -> None:
    """Finished runs as `phf train` and `phf eval` leave them; the last one of GRPO was stopped."""
    for name, averages in AVERAGES.items():
        for seed, average in enumerate(averages):
            run = StudyRun(study, None if name == "base" else name, seed)
            for step in run.steps:
                file = run.summary(step)
                file.parent.mkdir(parents=True)
                file.write_text(json.dumps({"average": average if step in (0, 2) else 0.6}))
            lines = [{"seconds": s, "rollout_seconds": 0.1, "peak_memory_bytes": 2**20 * s} for s in (9, 2 + seed)]
            (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (run.folder / "config.yaml").write_text(yaml.safe_dump({"optim": {"lr": 3e-4}}))
            (run.folder / "manifest.json").write_text(json.dumps({"git": "abc"}))
    stopped = StudyRun(study, "grpo", 1).summary(1)
    stopped.parent.mkdir(parents=True)
    stopped.write_text(json.dumps({"average": 0.55}))
    for name in ("metrics.jsonl", "config.yaml", "manifest.json"):
        (stopped.parents[3] / name).write_text((StudyRun(study, "grpo", 0).folder / name).read_text())


def test_the_figures_by_hand(tmp_path: Path) -> None:
    study = small(tmp_path)
    write_runs(study)
    page = tmp_path / "docs" / "STUDY.md"
    write_report(study, page)
    report = json.loads(page.with_suffix(".json").read_text())
    rows = {row["system"]: row for row in report["rows"]}
    assert rows["opsd"]["averages"]["2"] == pytest.approx({"mean": 0.81, "stderr": 0.01})
    assert rows["phf"]["averages"]["1"] == pytest.approx({"mean": 0.6, "stderr": 0.0})
    # differences +0.03 and -0.01: mean 0.01, deviation 0.04 / sqrt 2, error 0.02, t of one degree 12.706
    assert rows["phf"]["difference"] == pytest.approx(
        {"mean": 0.01, "stderr": 0.02, "low": 0.01 - 12.706 * 0.02, "high": 0.01 + 12.706 * 0.02, "pairs": 2}
    )
    assert rows["grpo"]["seeds"] == [0]
    assert rows["grpo"]["difference"]["low"] is None
    assert rows["base"]["difference"]["mean"] == pytest.approx(-0.29)
    assert rows["opsd"]["seconds_per_step"] == 2  # the fastest seed's, without its first step
    assert rows["opsd"]["peak_memory_bytes"] == 9 * 2**20
    text = page.read_text()
    assert "**Not complete: 7 of 8 runs are finished.**" in text
    assert "| OPSD | 2 | 0.0003 | 81.0 ± 1.0 |" in text
    assert "| PHF | 2 | 0.0003 | 82.0 ± 1.0 | +1.0 ± 2.0 | -24.4 to +26.4 |" in text
    assert "- Not told apart from OPSD: PHF." in text
    assert page.with_suffix(".png").stat().st_size > 0
    for run in report["runs"]:  # every number is traceable
        for step, file in run["files"].items():
            assert json.loads(Path(file).read_text())["average"] == run["averages"][step]


def test_a_study_without_any_run_has_a_page(tmp_path: Path) -> None:
    write_report(small(tmp_path), tmp_path / "STUDY.md")
    assert "**Not complete: 0 of 8 runs are finished.**" in (tmp_path / "STUDY.md").read_text()


def test_an_interval_is_students() -> None:
    eight = [0.01, 0.02, 0.03, 0.0, 0.01, 0.02, 0.03, 0.0]  # mean 0.015, deviation 0.01195
    got = difference(eight)
    assert got["low"] == pytest.approx(0.015 - 2.365 * 0.0119523 / 8**0.5, abs=1e-6)


@pytest.mark.parametrize(("name", "seeds"), [("study.yaml", 8), ("apart.yaml", 4)])
def test_the_shipped_studies_are_equal_in_rollouts(name: str, seeds: int) -> None:
    study = load_study(FOLDER / name)
    assert study.seeds >= seeds
    assert len(runs_of(study)) == study.seeds * (1 + sum(system.known for system in study.systems.values()))
    for system in study.systems.values():
        if not system.known:
            continue
        config = settings_of((*study.options, *system.options))
        group = config.grpo.group_size if config.objective in ("grpo", "oisd") else 1
        assert config.batch_size * group == 32


@pytest.mark.slow
def test_a_small_study_runs_and_goes_on(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    study = yaml.safe_load((FOLDER / "study.yaml").read_text())
    study |= {"folder": str(tmp_path / "runs"), "seeds": 1, "steps": [1], "samples": 1}
    study |= {"options": ["--set", "batch_size=4"]}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(study))

    def run(*options: str) -> Any:
        command = [sys.executable, str(FOLDER / "run.py"), str(file), "--report", str(tmp_path / "S.md"), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first = run("--only", "opsd")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "0 runs are finished, 2 to do" in first.stdout
    (tmp_path / "runs/opsd-seed0/evals/step-000001/embedded-n1/summary.json").unlink()
    again = run("--only", "opsd")
    assert "1 runs are finished, 1 to do" in again.stdout
    assert again.returncode == 0, again.stdout + again.stderr
    row = json.loads((tmp_path / "S.json").read_text())["rows"][-1]
    assert (row["system"], row["seeds"], sorted(row["averages"])) == ("opsd", [0], ["1"])
    refused = run("--only", "nothing")
    assert refused.returncode == 2
    assert refused.stdout == "study: --only nothing: the study has no nothing\n"
