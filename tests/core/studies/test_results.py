"""A study's records, its table and its page, by hand from the files that runs leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from phfcli.core.analysis.differences import seed_difference
from phfcli.core.errors import UserError
from phfcli.core.studies.page import write_report
from phfcli.core.studies.record import finished, write_record
from phfcli.core.studies.results import findings, results_of
from phfcli.core.studies.schedule import chosen_rates, known_runs
from phfcli.core.studies.study_file import Study, StudyRun, load_study, runs_of, search_runs

# right samples of two, for each of four problems
RIGHT = {
    ("base", 0): (1, 1, 1, 1),  # 50%
    ("opsd", 0): (2, 2, 1, 1),  # 75%
    ("opsd", 1): (2, 2, 2, 1),  # 87.5%
    ("phf", 0): (2, 2, 2, 2),  # 100%
    ("phf", 1): (2, 2, 2, 1),  # 87.5%
    ("sft", 0): (1, 1, 0, 0),  # 25%
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    tree: dict[str, Any] = {
        "title": "A | study",
        "question": "Which?",
        "limits": "Nothing else.",
        "folder": str(tmp_path / "runs"),
        "records": str(tmp_path / "docs/records"),
        "page": str(tmp_path / "docs/page.md"),
        "models": {"tiny": {"model": "embedded"}},
        "benches": ["embedded"],
        "eval": {"n": 2},
        "evaluated": [1, 2],
        "baseline": "opsd",
        "seeds": 2,
        "search": {"rates": {"output": [1e-4, 1e-3]}, "steps": 1, "bench": "embedded-dev"},
        "systems": {
            "opsd": {"title": "OPSD", "family": "output", "set": {"objective": "opsd"}},
            "phf": {"title": "PHF", "family": "output", "set": {"objective": "phf"}},
            "sft": {"title": "SFT", "seeds": 1, "set": {"objective": "sft", "optim": {"lr": 1e-5}}},
        },
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load_study(file)


def write_run(run: StudyRun, right: tuple[int, ...]) -> None:
    """What `phf train` and `phf eval` leave of a run, and its record."""
    for step in run.evaluated:
        folder = run.folder / "evals" / (f"step-{step:06d}" if step else "") / f"{run.benches[0]}-n2"
        folder.mkdir(parents=True)
        samples = [
            {"problem": f"p{p}", "sample": s, "status": "correct" if s < count else "wrong", "answer": str(s < count)}
            for p, count in enumerate(right)
            for s in range(2)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        average = sum(right) / 8
        summary = {"bench": run.benches[0], "average": average, "target": "x", "n": 2, "problems": 4, "stderr": 0.1}
        (folder / "summary.json").write_text(json.dumps(summary | {"pass_at_k": {"1": average, "2": 1.0}}))
    lines = [
        {"step": s, "seconds": 9 - s, "rollout_seconds": 1, "peak_memory_bytes": 2**20, "loss": 0.5} for s in (1, 2)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "config.yaml").write_text(yaml.safe_dump({"optim": {"lr": run.rate or 1e-5}}))
    (run.folder / "manifest.json").write_text(
        json.dumps({"created": "now", "git": "abc", "model": {"name": "m", "sha256": "m1"}, "data": {"revision": "d1"}})
    )
    write_record(run)


def search(study: Study, scores: dict[float, tuple[int, ...]]) -> None:
    for run in search_runs(study):
        write_run(run, scores[run.rate or 0])


def fill(study: Study) -> None:
    search(study, {1e-4: (1, 1, 0, 0), 1e-3: (2, 1, 0, 0)})
    for run in known_runs(study):
        write_run(run, RIGHT[run.system, run.seed])


def test_the_best_rate_of_the_search_is_taken(study: Study) -> None:
    assert chosen_rates(study) == {}
    assert [run.name for run in known_runs(study)] == ["tiny/base-seed0", "tiny/sft-seed0"]  # of no family
    search(study, {1e-4: (1, 1, 0, 0), 1e-3: (2, 1, 0, 0)})
    assert chosen_rates(study) == {("tiny", "output"): 1e-3}
    assert [run.rate for run in known_runs(study)] == [None, 1e-3, 1e-3, None, 1e-3, 1e-3]


def test_of_equal_rates_the_smaller_one_is_taken(study: Study) -> None:
    search(study, {1e-4: (1, 1, 0, 0), 1e-3: (0, 0, 1, 1)})
    assert chosen_rates(study) == {("tiny", "output"): 1e-4}


def test_the_page_tells_starting_points_apart(study: Study) -> None:
    fill(study)
    assert "starting points" not in page_of(study)
    assert study_record(study, "phf-seed1")["starts_from"] == {"model": "m1", "data": "d1"}
    change_record(study, "phf-seed1", starts_from={"model": "m2", "data": "d1"})
    assert "**Runs of tiny have 2 starting points**" in page_of(study)
    assert "4 runs share one; the others are phf-1." in page_of(study)
    change_record(study, "phf-seed1", starts_from=None)
    assert "1 of 5 runs of tiny do not record which weights and problems they started from." in page_of(study)


def page_of(study: Study) -> str:
    return write_report(study, Path("study.yaml")).read_text()


def study_record(study: Study, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((Path(study.records) / "tiny" / f"{name}.json").read_text())
    return record


def change_record(study: Study, name: str, **changes: Any) -> None:
    record = study_record(study, name) | changes
    (Path(study.records) / "tiny" / f"{name}.json").write_text(json.dumps(record))


def test_the_figures_by_hand(study: Study) -> None:
    fill(study)
    results = results_of(study)
    assert (results.finished, results.wanted) == (6, 6)
    rows = {row.system: row for row in results.rows}
    assert rows["opsd"].averages == {1: [0.75, 0.875], 2: [0.75, 0.875]}
    over = rows["phf"].difference
    assert over is not None
    # by seed +0.25 and 0: mean 0.125, error 0.125; t of one degree is 12.706
    assert over.over_seeds.difference == pytest.approx(0.125)
    assert over.over_seeds.high == pytest.approx(0.125 + 12.7062 * 0.125, abs=1e-4)
    assert over.corrected == over.over_seeds.p_value == pytest.approx(0.5)  # the only comparison over seeds
    assert over.over_problems.difference == pytest.approx(0.25)  # of seed 0
    base = rows["base"].difference
    assert base is not None
    assert base.over_seeds.difference == pytest.approx(-0.3125)  # minus the mean of both seeds
    sft = rows["sft"].difference
    assert sft is not None
    assert (sft.over_seeds.low, sft.corrected) == (None, None)
    assert rows["sft"].error() == (0.1, "problems")


def test_the_page_says_what_is_there_and_where_it_is_from(study: Study, tmp_path: Path) -> None:
    fill(study)
    text = write_report(study, tmp_path / "study.yaml").read_text()
    assert "| PHF | 2 | 93.8 ± 6.2 (seeds) | +12.5 | -146.3 to +171.3 | 0.500 | 136 seeds |" in text
    assert "- **Null**, no difference from OPSD shown: PHF." in text
    assert "- **One seed only**, so no statement about the method: SFT." in text
    assert (
        "- **Width**: 1 of 1 intervals over seeds are wider than ± 3 points; the column `seeds for ± 3 points` gives"
        in text
    )
    assert "Not complete" not in text
    for run in runs_of(study):
        assert f"(records/{run.name}.json)" in text
        assert run.record.is_file()
    assert (tmp_path / "docs/page.png").stat().st_size > 0
    figures = json.loads((tmp_path / "docs/page.json").read_text())
    assert [row["system"] for row in figures["rows"]] == ["base", "opsd", "phf", "sft"]


def test_a_study_without_any_run_has_a_page(study: Study, tmp_path: Path) -> None:
    text = write_report(study, tmp_path / "study.yaml").read_text()
    assert "**Not complete: 0 of 6 runs are finished.**" in text


@pytest.mark.parametrize("there", [["base"], ["base", "phf"]])
def test_a_study_without_its_baseline_has_a_page(study: Study, there: list[str]) -> None:
    search(study, {1e-4: (1, 1, 0, 0), 1e-3: (2, 1, 0, 0)})
    for run in known_runs(study):
        if run.system in there:
            write_run(run, RIGHT[run.system, run.seed])
    text = page_of(study)
    assert "| base model | 1 | 50.0 ± 10.0 (problems) |" in text
    assert "**Shown** (p at most 0.05 after Holm's correction, seeds as the unit), against OPSD: nothing." in text


def test_what_only_the_correction_takes_is_open(study: Study) -> None:
    fill(study)
    results = results_of(study)
    own = seed_difference([0.049, 0.05, 0.051])
    assert own.p_value is not None
    assert own.p_value < 0.05

    def corrected_to(p_value: float) -> list[str]:
        rows = [
            replace(row, difference=replace(row.difference, over_seeds=own, corrected=p_value))
            if row.difference and row.system == "phf"
            else row
            for row in results.rows
        ]
        return findings(study, replace(results, rows=rows))

    opened = corrected_to(0.06)
    assert "- **Open**, different from OPSD before but not after the correction: PHF by +5.0 points." in opened
    assert "- **Null**, no difference from OPSD shown: nothing." in opened
    assert not any("Open" in line for line in corrected_to(0.04))


def test_a_fresh_checkout_goes_on_from_the_records(study: Study) -> None:
    """The runs themselves are not needed any more."""
    fill(study)
    assert all(finished(run) for run in known_runs(study))
    moved = study.model_copy(update={"folder": "elsewhere"})
    assert all(finished(run) for run in known_runs(moved))


def test_a_record_of_other_settings_is_refused(study: Study) -> None:
    fill(study)
    other = study.model_copy(update={"set": {"batch_size": 8}})
    with pytest.raises(UserError, match=r"sft-seed0\.json|opsd.*\.json: its run has other settings"):
        results_of(other)


def test_a_damaged_record_is_named(study: Study) -> None:
    fill(study)
    record = next(run.record for run in known_runs(study))
    record.write_text(record.read_text().replace('"average": 0.5', '"average": 40.0'))
    with pytest.raises(UserError, match=r"base-seed0\.json: evaluations.*average"):
        results_of(study)
