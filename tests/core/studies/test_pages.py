"""The pages of the studies that have records, and what README and recipes claim: all of it again from the records."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy import stats

from phfcli.core.analysis.differences import paired_difference
from phfcli.core.errors import points
from phfcli.core.evaluation.scores import standard_error
from phfcli.core.studies.charts import pictures
from phfcli.core.studies.page import figures, page
from phfcli.core.studies.results import results_of
from phfcli.core.studies.study_file import load_study

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = [file for file in sorted((ROOT / "studies").glob("*.yaml")) if "records: docs/" in file.read_text()]
MADE = [file for file in STUDIES if (ROOT / load_study(file).page).is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("file", MADE, ids=lambda file: file.stem)
def test_a_page_is_what_its_records_make(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of the statistics: phf study studies/NAME.yaml --report-only."""
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    results, path = results_of(study), Path(study.page)
    drawn = pictures(study, results)
    assert path.read_text(encoding="utf-8") == page(study, results, file.relative_to(ROOT), path, drawn)
    assert {picture.stem for picture in path.with_suffix("").iterdir()} == set(drawn)
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(json.dumps(figures(study, results)))


def test_every_page_of_a_study_has_records() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("STUDY*.md")}
    assert pages == {Path(load_study(file).page).stem for file in MADE}


def evaluations(records: str, system: str, bench: str) -> list[dict[str, Any]]:
    """The last evaluation of each seed."""
    found = []
    for file in sorted((ROOT / records).glob(f"{system}-seed*.json")):
        record = json.loads(file.read_text())
        last = max(record["evaluations"], key=int)
        found += [one for name, one in record["evaluations"][last].items() if Path(name).stem == bench]
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(text: str, first: str) -> Iterator[list[str]]:
    """The lines of the table whose first line begins so."""
    for line in text[text.index(first) :].split("\n\n")[0].splitlines():
        yield cells(line)


REAL = ("base", "sft", "grpo", "oprd", "oisd", "opsd", "phf", "pointwise", "opsd-no-clip", "phf-no-clip")


def test_readmes_first_table_is_that_of_the_records() -> None:
    _, _, trainings, scores = rows(README, "| | base | SFT")
    for system, count, shown in zip(REAL, trainings[1:], scores[1:], strict=True):
        seeds = evaluations("docs/study-real/smollm2-135m", system, "eval")
        by_problem = np.array([fmean(one["scores"][name] for one in seeds) for name in seeds[0]["scores"]])
        error = standard_error(by_problem)
        assert error is not None
        assert shown == f"{100 * by_problem.mean():.1f} ± {100 * error:.1f}"
        assert count == ("" if system == "base" else str(len(seeds)))


def test_readmes_differences_are_those_of_the_studys_page() -> None:
    told = json.loads((ROOT / "docs/STUDY-REAL.json").read_text())
    assert f"{told['finished']} of {told['wanted']} runs" in README
    by_name = {(row["system"], row["bench"]): row["difference"] for row in told["rows"] if row["difference"]}
    for system, bench, p_value in (("phf", "eval", None), ("phf", "held-out", 2), ("opsd-no-clip", "eval", 2)):
        over, corrected = by_name[system, bench]["over_seeds"], by_name[system, bench]["corrected"]
        difference, low, high = (f"{100 * over[name]:+.1f}" for name in ("difference", "low", "high"))
        interval = rf"{re.escape(low)} to {re.escape(high)}"
        p_said = "" if p_value is None else rf"[^.]*p = {corrected:.{p_value}f}"
        assert re.search(rf"{re.escape(difference.strip('+'))}[^.()]*\([^()]*?{interval}{p_said}", README), system


def test_readmes_demo_is_the_first_seed_of_the_planned_study() -> None:
    """The demo trains what the study trains; so its figures are those of the records, to the last digit."""
    systems = {"base": "base", "opsd-published": "opsd", "opsd": "opsd-no-clip", "phf": "phf-no-clip"}
    for shown, system in systems.items():
        [line] = re.findall(rf"^ {shown} +(?:-|100) .*$", README, re.MULTILINE)
        one = evaluations("docs/studies/methods/embedded", system, "embedded")[0]
        passed = one["pass_at_k"]["12"]
        figures = (one["greedy"], passed, one["majority"], one["truncated_share"])
        expected = [
            f"{100 * one['average']:.1f} ± {100 * one['stderr']:.1f}",
            *(f"{100 * each:.1f}" for each in figures),
        ]
        assert re.split(r"  +", line.strip())[5:] == expected, shown


def test_readmes_difference_of_the_demo_is_that_of_the_records() -> None:
    a, b = (evaluations("docs/studies/methods/embedded", f"{name}-no-clip", "embedded")[0] for name in ("phf", "opsd"))
    shares = [{problem: [share] for problem, share in one["scores"].items()} for one in (a, b)]
    told = paired_difference(*shares)
    assert told.low is not None
    assert told.high is not None
    words = f"{points(told.difference)} ({points(told.low)} to {points(told.high)} over problems; one seed)"
    assert words in README


def test_the_probes_calibration_is_that_of_its_record() -> None:
    page = (ROOT / "docs/probe.md").read_text(encoding="utf-8")
    found = json.loads((ROOT / "docs/probe-prediction.json").read_text())
    for row, shown in zip(found["rows"], list(rows(page, "| base | system"))[2:], strict=True):
        figures = [f"{row[name]:.3f}" for name in found["correlation"]]
        assert shown == [row["base"], row["system"], str(row["seeds"]), f"{100 * row['gained']:+.1f}", *figures]
    for (name, told), shown in zip(found["correlation"].items(), list(rows(page, "| prediction |"))[2:], strict=True):
        values, gained = ([row[key] for row in found["rows"]] for key in (name, "gained"))
        assert told["all"] == pytest.approx(stats.spearmanr(values, gained).statistic)
        low, high = told["left_out"]
        assert shown[:4] == [name, f"{told['all']:.2f}", f"{told['p_value']:.2f}", f"{low:.2f} to {high:.2f}"]


def test_readmes_costs_are_those_of_the_record() -> None:
    record = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    step = {row[0]: row for row in rows(record, "| 2026-11-27, medians")}
    for name, column in (("phf", 1), ("TRL 1.16 SDFT", 2)):
        seconds, tokens = step[name][1].split()[0], step[name][7]
        gib = float(step[name][10].split()[0].replace(",", "")) / 1024
        [line] = [line for line in README.splitlines() if line.startswith("| a whole OPSD step")]
        assert cells(line)[column] == f"{float(seconds):.0f} s, {tokens} tokens, {gib:.1f} GiB"
    update = {(row[0], row[1]): row for row in rows(record, "| rollout tokens | update")}
    for column, name in enumerate(("phf, OPSD", "TRL SDFT", "plain, OPSD"), 1):
        row = update["512", name]
        [seconds] = [line for line in README.splitlines() if line.startswith("| seconds of an OPSD update")]
        [memory] = [line for line in README.splitlines() if line.startswith("| memory of that update")]
        assert cells(seconds)[column] == f"{float(row[2].split()[0]):.0f}"
        gib = float(row[4].split()[0].replace(",", "")) / 1024
        assert cells(memory)[column] == f"{gib:.1f} GiB"
