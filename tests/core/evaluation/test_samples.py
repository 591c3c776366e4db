"""The file of samples: one writer, one set of settings, each key once."""

import re
from pathlib import Path

import pandas
import pytest

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.samples import TABLE_COLUMNS, SampleFile, prompt_settings
from phfcli.core.runs.targets import Target
from phfcli.core.types import Problem

PROBLEMS = [Problem("a", "?"), Problem("b", "?")]
SETTINGS = {"n": 2, "seed": 0}


def line(problem: str, sample: int, **more: object) -> dict[str, object]:
    return {"problem": problem, "sample": sample, "status": "correct", "answer": "1", **more}


def test_what_was_appended_is_read_by_key(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "new" / "bench")
    with file.claim(SETTINGS, {"created": "now"}):
        file.append([line("a", 0), line("b", 1)])
        file.append([line("a", 0, again=True), line("a", 5), line("gone", 0)])
    read = file.read(PROBLEMS, 2)
    assert {key: value | {"sum": ""} for key, value in read.items()} == {
        ("a", 0): line("a", 0, sum=""),
        ("b", 1): line("b", 1, sum=""),
    }


def test_a_torn_last_line_is_taken_off_before_anything_is_appended(tmp_path: Path) -> None:
    file = SampleFile(tmp_path)
    with file.claim(SETTINGS, {}):
        file.append([line("a", 0)])
    with file.path.open("a") as torn:
        torn.write('{"problem": "a", "sam')
    with file.claim(SETTINGS, {}):
        file.append([line("a", 1)])
    assert sorted(file.read(PROBLEMS, 2)) == [("a", 0), ("a", 1)]
    assert file.path.read_text().count("\n") == 2


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "bench")
    with file.claim(SETTINGS, {"created": "then"}):
        pass
    with (
        pytest.raises(UserError, match="was sampled with seed 0, now it is 1"),
        file.claim({**SETTINGS, "seed": 1}, {}),
    ):
        pytest.fail("mixed")
    with file.claim(SETTINGS, {"created": "later"}):  # what is only about the run may differ
        pass


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "bench")
    refused = pytest.raises(UserError, match="another evaluation is writing here")
    with file.claim(SETTINGS, {}), refused, file.claim(SETTINGS, {}):
        pytest.fail("two writers")
    with file.claim(SETTINGS, {}):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files of something else"), SampleFile(tmp_path).claim(SETTINGS, {}):
        pytest.fail("taken")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stop_before_the_settings_were_written_leaves_a_usable_folder(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / ".settings.json.0123.tmp").touch()
    with SampleFile(tmp_path).claim(SETTINGS, {}):
        assert (tmp_path / "settings.json").is_file()


def test_the_table_has_a_row_for_each_sample_by_problem_and_number(tmp_path: Path) -> None:
    about = {"bench": "aime", "target": "runs/phf", "step": None, "average": 0.5}
    drawn = [
        line("b", 0, gold="1", tokens=7, seed=2**63 - 1, text="\\boxed{1}", seconds=2.0),
        line("a", 1, status="truncated", answer=None, gold=None, tokens=9, seed=1, text="half \ud800"),
        line("a", 0, status="wrong", gold="2 or 3", tokens=8, seed=2, text="1", cut=True),
    ]
    file = SampleFile(tmp_path)
    file.write_table(drawn, PROBLEMS, about)
    frame = pandas.read_parquet(file.table)
    assert list(frame.columns) == list(TABLE_COLUMNS)
    assert list(zip(frame["problem"], frame["sample"], strict=True)) == [("a", 0), ("a", 1), ("b", 0)]
    assert frame["correct"].tolist() == [False, False, True]
    assert frame["cut"].tolist() == [True, True, False]
    assert frame["seed"].tolist() == [2, 1, 2**63 - 1]
    assert frame["text"].tolist() == ["1", "half ?", "\\boxed{1}"]
    assert frame["question"].unique().tolist() == ["?"]
    assert frame["bench"].unique().tolist() == ["aime"]
    assert frame[["step", "answer", "gold"]].isna().sum().tolist() == [3, 1, 1]


def test_the_documentation_names_every_column() -> None:
    page = Path(__file__).parents[3] / "docs" / "run-files.md"
    part = page.read_text(encoding="utf-8").partition("## The columns of samples.parquet")[2]
    named = [name for first in re.findall(r"^\|([^|]*)\|", part, re.MULTILINE) for name in re.findall("`(.*?)`", first)]
    assert set(named) == set(TABLE_COLUMNS)


@pytest.mark.parametrize(
    ("given", "student", "thinking"),
    [
        ({}, "Q: {problem}", False),
        ({"day": "2026-01-02"}, "Q: {problem}", False),
        ({"thinking": True}, "Q: {problem}", True),  # which is the default, and is asked for
        ({"student": "{problem}"}, "{problem}", False),
        ({"student": None}, None, False),
    ],
)
def test_a_prompt_setting_that_is_not_given_is_the_runs(
    given: dict[str, str], student: str | None, thinking: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("prompt: {student: 'Q: {problem}', thinking: false, day: 2026-01-01}\n")
    config = EvalConfig.model_validate({"prompt": given})
    found = prompt_settings(config, Target("run", "embedded", "embedded", run=tmp_path))
    assert (found.student, found.thinking) == (student, thinking)
    assert str(found.day) == given.get("day", "2026-01-01")
    assert prompt_settings(config, Target("base", "embedded", "embedded")) == config.prompt
