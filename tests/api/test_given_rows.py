"""Rows that are given in Python are kept in a file, and used and recorded like one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

import phfcli as phf
from phfcli.api.arguments import data_name

ROWS = [{"problem": f"Start with {n}, add 8.", "answer": n + 8} for n in (1, 12)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_same_rows_are_one_file_whatever_holds_them() -> None:
    held: list[Any] = [ROWS, tuple(ROWS), pd.DataFrame(ROWS), Dataset.from_list(ROWS)]
    names = {data_name("data", rows) for rows in held}
    assert len(names) == 1
    (name,) = names
    assert Path(name).parent == Path("runs/data").resolve()
    assert [json.loads(line) for line in Path(name).read_text().splitlines()] == ROWS


def test_cells_of_numpy_are_what_they_say() -> None:
    row = {"problem": "é", "answer": np.int64(3), "share": float("nan"), "options": np.array(["a", "b"])}
    file = Path(data_name("data", [row]))
    assert json.loads(file.read_text()) == {"problem": "é", "answer": 3, "share": None, "options": ["a", "b"]}


def test_what_looks_like_a_secret_in_a_row_stays_as_it_is() -> None:
    rows = [{"problem": "Say http://me:word@host with Bearer abcdefgh", "answer": "hf_abcdefgh"}]
    assert json.loads(Path(data_name("data", rows)).read_text()) == rows[0]


@pytest.mark.parametrize("name", ["embedded", Path("x.jsonl"), None, ["aime24", "aime25"]])
def test_names_stay_names(name: Any) -> None:
    assert data_name("data", name) is name
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train": ROWS}, 'bench: is a mapping of train; give one table, such as its "train"'),
        (pd.DataFrame(), "bench: has no rows"),
        ([], "bench: is empty"),
        ([{"problem": object(), "answer": 1}], "bench: a cell holds object"),
        ([{"problem": "x"}], "no column 'answer' among problem"),
    ],
)
def test_what_is_no_table_is_told_in_a_sentence(given: Any, says: str) -> None:
    with pytest.raises(phf.UserError, match=says) as error:
        phf.evaluate("embedded", bench=given)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_run_on_rows_is_evaluated_graded_reported_and_exported() -> None:
    solved = [row | {"solution": f"{row['answer']}. \\boxed{{{row['answer']}}}"} for row in ROWS]
    settings = {"batch_size": 2, "rollout.max_new_tokens": 8, "flow.saved_samples": 1}
    run = phf.train(data=solved, steps=1, config=settings, progress=False)
    assert Path(run.config.data).parent.name == "data"
    with pytest.warns(UserWarning, match="no sample is correct"):
        scores = phf.evaluate(run, bench=pd.DataFrame(ROWS), n=1, greedy=False, progress=False)
    graded = phf.grade(scores.summaries[0]["folder"], ["phf", "strict"])
    assert list(graded.to_pandas()["name"]) == ["phf", "strict", "stored: phf"]
    page = phf.report({"mine": run}, "page.html", title="Rows of mine")
    assert "Rows of mine" in page.read_text()
    assert (phf.export(run, "merged") / "config.json").is_file()
    found = phf.probe(run, solved, problems=2, n=1, contexts=["reference"])
    assert found.readings
    assert "reference" in set(found.to_pandas()["context"])
    found.write("probe.html")
    assert "reference" in Path("probe.html").read_text()
