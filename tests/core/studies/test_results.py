"""A study's records, its table and its page, by hand from the files that runs leave."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from phfcli.core.analysis.differences import seed_difference
from phfcli.core.errors import UserError
from phfcli.core.runs.folder import model_identity
from phfcli.core.runs.problems import load_problems
from phfcli.core.settings import Source, resolve_train
from phfcli.core.studies.page import write_report
from phfcli.core.studies.record import changed_inputs, finished, read_record, settings_of, write_record
from phfcli.core.studies.results import answers, findings, results_of
from phfcli.core.studies.schedule import Schedule, chosen_rates, known_runs
from phfcli.core.studies.study_file import WHOLE, Planned, Study, StudyRun, load_study, runs_of, search_runs

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


@pytest.mark.slow
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


def planned(study: Study) -> Study:
    """The study with a planned comparison and three seeds, and its records."""
    study = study.model_copy(update={"planned": (Planned(system="phf", minus="opsd"),), "seeds": 3})
    search(study, {1e-4: (1, 1, 0, 0), 1e-3: (2, 1, 0, 0)})
    third = {("opsd", 2): (2, 1, 1, 1), ("phf", 2): (2, 2, 2, 1)}
    for run in known_runs(study):
        write_run(run, (RIGHT | third)[run.system, run.seed])
    return study


def test_a_planned_comparison_by_hand(study: Study) -> None:
    """Averages of opsd 0.75, 0.875, 0.625 and of phf 1, 0.875, 0.875; greedy was not drawn."""
    study = planned(study)
    sampled, greedy = answers(study, results_of(study))
    assert (sampled.name, sampled.measure, sampled.planned) == ("phf - opsd", "average", True)
    assert sampled.own is not None
    assert sampled.own.paired
    # by seed 0.25, 0, 0.25: mean 1/6, error 1/12; t of two degrees is 4.3027
    assert sampled.own.high == pytest.approx(1 / 6 + 4.3027 / 12, abs=1e-4)
    assert sampled.shared is not None
    # variances 1/64 and 1/192: together 1/96 with four degrees, error sqrt(2/3 / 96) = 1/12; t of four is 2.7764
    assert (sampled.shared.freedom, sampled.shared.stderr) == (4, pytest.approx(1 / 12))
    assert sampled.shared.high == pytest.approx(1 / 6 + 2.7764 / 12, abs=1e-4)
    assert sampled.corrected == pytest.approx(0.1161, abs=1e-4)  # the only one that can be tested
    assert (greedy.measure, greedy.difference, greedy.corrected) == ("greedy", None, None)
    text = page_of(study)
    assert "| phf - opsd | average | +16.7 | -6.5 to +39.8 | 4 | -19.2 to +52.5 | 0.116 | not shown |" in text
    assert "| phf - opsd | greedy |  |  |  |  |  | cannot tell |" in text

    change_record(study, "phf-seed1", planned=[])  # it was made before the comparison was asked
    sampled, _ = answers(study, results_of(study))
    assert (sampled.planned, sampled.corrected) == (False, None)
    assert "| phf - opsd, not planned | average |" in page_of(study)


def test_other_starting_points_are_not_paired(study: Study) -> None:
    study = planned(study)
    change_record(study, "phf-seed1", starts_from={"model": "m2", "data": "d1"})
    sampled, _ = answers(study, results_of(study))
    assert sampled.own is not None
    assert not sampled.own.paired


def test_the_page_says_what_is_there_and_where_it_is_from(study: Study, tmp_path: Path) -> None:
    fill(study)
    text = write_report(study, tmp_path / "study.yaml").read_text()
    assert "| PHF | 2 | 93.8 ± 6.2 (seeds) | +12.5 | -146.3 to +171.3 | 0.500 | 136 seeds |" in text
    assert "- **Cannot tell**, too few seeds: PHF." in text
    assert "- **One seed only**, so no statement about the method: SFT." in text
    assert (
        "- **Width**: 1 of 1 intervals over seeds are wider than ± 3 points; the column `seeds for ± 3 points` gives"
        in text
    )
    assert "Not complete" not in text
    for run in runs_of(study):
        assert f"(records/{run.name}.json)" in text
        assert run.record.is_file()
    pictured = re.findall(r"!\[.*\]\((page/.*)\)", text)
    assert [Path(name).stem.split("-")[0] for name in pictured] == ["scores", "differences"]
    assert all((tmp_path / "docs" / name).stat().st_size > 0 for name in pictured)
    figures = json.loads((tmp_path / "docs/page.json").read_text())
    assert [row["system"] for row in figures["rows"]] == ["base", "opsd", "phf", "sft"]


def test_a_file_where_the_pictures_should_be_is_named_before_anything_is_written(study: Study, tmp_path: Path) -> None:
    fill(study)
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "page").write_text("mine")
    with pytest.raises(UserError, match=r"study.yaml: page .*docs/page is a file, not a folder"):
        write_report(study, tmp_path / "study.yaml")
    assert not (tmp_path / "docs" / "page.json").exists()
    assert (tmp_path / "docs" / "page").read_text() == "mine"


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": "phf"}, "system is 'phf', and it lies where the record of 'sft' belongs"),
        ({"model": "large"}, "model is 'large'"),
        ({"seed": 3}, "seed is 3"),
        ({"evaluations": {}}, "evaluations: it has those of the steps , and the study evaluates 1, 2"),
        ({"evaluations.2": {}}, "evaluations.2: dictionary should have at least 1 item"),
        ({"evaluations.2.embedded.average": 0.5}, "evaluations.2.embedded: average is 0.5, and its scores give 0.25"),
        ({"evaluations.1.embedded.scores": {"p0": 1}}, "evaluations.1.embedded: average is 0.25"),
        ({"evaluations.1.embedded.scores": {}}, "evaluations.1.embedded.scores: dictionary should have"),
        ({"evaluations.1.embedded.n": 12}, "evaluations.1.embedded: n is 12, and the study draws 2"),
        ({"evaluations.2.embedded.majority": "most"}, "evaluations.2.embedded.majority"),
        ({"evaluations.2.embedded.pass_at_k": {"x": 1}}, "evaluations.2.embedded.pass_at_k"),
        ({"evaluations.2.other": {"average": 0.5, "stderr": None, "n": 2, "scores": {"p": 0.5}}}, "other benchmarks"),
        ({"seconds_per_step": None}, "seconds_per_step is missing"),
        ({"rollout_seconds_per_step": "fast"}, "rollout_seconds_per_step: must be a valid number"),
        ({"rate": None}, "rate is missing"),
        ({"energy": {"layers": [1]}}, "energy.share: field required"),
        ({"starts_from": {"model": 1}}, "starts_from.model"),
    ],
)
def test_what_a_record_says_of_itself_is_compared_with_what_it_holds(
    study: Study, changes: dict[str, Any], words: str
) -> None:
    run = next(run for run in known_runs(study) if run.system == "sft")
    write_run(run, (1, 1, 0, 0))
    record = json.loads(run.record.read_text())
    for key, value in changes.items():
        *path, name = key.split(".")
        inside = record
        for part in path:
            inside = inside[part]
        inside[name] = value
    run.record.write_text(json.dumps(record))
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        results_of(study)
    assert str(caught.value).startswith(str(run.record))
    assert "\n" not in str(caught.value)


def test_a_record_holds_the_evaluation_that_the_study_asks_for_now(study: Study) -> None:
    """Records are removed and n is changed: the old evaluations lie beside the new ones."""
    run = known_runs(study)[0]
    write_run(run, (1, 1, 1, 1))
    run.record.unlink()
    more = StudyRun(study.model_copy(update={"eval": {"n": 12}}), run.model, run.system)
    with pytest.raises(UserError, match="no evaluation of step 0 on embedded was found"):
        write_record(more)
    old = next(run.folder.glob("evals/*-n2"))
    new = old.with_name("embedded-n12")
    new.mkdir()
    lines = [
        {"problem": f"p{p}", "sample": s, "status": "correct" if s < 3 else "wrong", "answer": ""}
        for p in range(4)
        for s in range(12)
    ]
    (new / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"bench": "embedded", "average": 0.25, "target": "x", "n": 12, "problems": 4}
    (new / "summary.json").write_text(json.dumps(summary))
    os.utime(new / "summary.json", (1, 1))  # older than the evaluation of 2
    write_record(more)
    record = read_record(more)
    assert record is not None
    assert record["evaluations"]["0"]["embedded"]["average"] == 0.25
    assert record["evaluations"]["0"]["embedded"]["n"] == 12


def test_a_study_goes_on_only_from_what_its_records_were_made_from(study: Study) -> None:
    run = next(run for run in known_runs(study) if run.system == "sft")
    write_run(run, (1, 1, 0, 0))
    config = resolve_train([Source("study", run.training() | {"data": "embedded"})])
    same = {"model": model_identity("embedded")["sha256"], "data": load_problems(config).sha256}
    study = study.model_copy(update={"set": {"data": "embedded"}})
    run = next(run for run in known_runs(study) if run.system == "sft")

    def write(**starts: str) -> list[str]:
        tree = json.loads(run.record.read_text()) | settings_of(run) | {"starts_from": same | starts}
        run.record.write_text(json.dumps(tree))
        return changed_inputs([run])

    assert write() == []
    assert write(data="other") == [f"{run.record}: data: it was made with other contents than are there now"]
    assert [sentence.split(": ")[1] for sentence in write(model="other")] == ["model"]
    schedule = Schedule(study, WHOLE, [{}], print)
    with pytest.raises(UserError, match=r"sft-seed0\.json: model: it was made .*set force"):
        schedule.run()
    tree = json.loads(run.record.read_text()) | {"starts_from": same}
    tree["evaluations"]["2"]["embedded"]["bench_sha256"] = "b" * 64
    tree["evaluations"]["1"]["embedded"]["bench_sha256"] = "b" * 64
    run.record.write_text(json.dumps(tree))
    assert [sentence.split(": ")[1] for sentence in changed_inputs([run])] == ["bench embedded"]
