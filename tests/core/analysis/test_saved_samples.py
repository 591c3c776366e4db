"""Files that other tools wrote themselves are read, and graded again to the score that their own code gave.

write_peer_files.py made the files, with lm-eval 0.4.13, lighteval 0.13.0 (latex2sympy2_extended 1.0.6) and inspect_ai
0.3.285; the scores below are those that the tools' code wrote into them.
"""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from phfcli.core.analysis.regrade import Regrading, regrade
from phfcli.core.analysis.saved_samples import read_samples
from phfcli.core.config import GradeConfig, SampleColumns
from phfcli.core.errors import UserError
from phfcli.core.names import PolicyName

FILES = Path(__file__).parent / "files"
OWN = GradeConfig()

# what each tool's own code gave to the ten samples
LM_EVAL_STRICT = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
LM_EVAL_FLEXIBLE = [0, 1, 0, 0, 1, 0, 1, 0, 1, 0]
LIGHTEVAL = [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
INSPECT_MATCH = [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
INSPECT_EXACT = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]


def graded(name: str, *policies: PolicyName) -> Regrading:
    return regrade(read_samples(FILES / name, OWN), policies, 20.0)


def scores(found: Regrading) -> dict[str, list[float]]:
    return {row.name: list(row.scores) for row in found.rows}


def test_lm_evaluation_harness() -> None:
    found = graded("samples_gsm8k.jsonl", "last-number")
    assert found.form == "lm-evaluation-harness"
    assert scores(found) == {
        "last-number": LM_EVAL_FLEXIBLE,
        "stored: strict-match/exact_match": LM_EVAL_STRICT,
        "stored: flexible-extract/exact_match": LM_EVAL_FLEXIBLE,
    }
    assert found.texts[0].golds == ("204",)  # out of a whole solution


def test_lighteval() -> None:
    found = graded("details_aime24.parquet", "math-verify")
    assert found.form == "lighteval"
    assert scores(found) == {"math-verify": LIGHTEVAL, "stored: pass@k:k=1&n=1": LIGHTEVAL}


@pytest.mark.parametrize("name", ["inspect.json", "inspect.eval"])
def test_inspect(name: str) -> None:
    found = graded(name, "phf")
    assert found.form == "inspect_ai"
    own = scores(found)
    assert own["stored: match"] == INSPECT_MATCH
    assert own["stored: exact"] == INSPECT_EXACT
    log = json.loads((FILES / "inspect.json").read_text())
    metrics = {score["name"]: score["metrics"] for score in log["results"]["scores"]}
    told = {name: own.get("accuracy", own.get("mean"))["value"] for name, own in metrics.items()}
    assert {row.name.removeprefix("stored: "): row.average for row in found.rows[1:]} == pytest.approx(told)


def test_all_tools_said_the_same_texts() -> None:
    texts = [
        [text.text for text in read_samples(FILES / name, OWN).texts]
        for name in ("samples_gsm8k.jsonl", "details_aime24.parquet", "inspect.json", "inspect.eval")
    ]
    assert all(own == texts[0] for own in texts)


def test_a_plain_table_groups_the_samples_of_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"id": "a", "gold": "7", "out": r"\boxed{7}"}, {"id": "a", "gold": "7", "out": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = SampleColumns(problem="id", answer="gold", completion="out")
    found = regrade(read_samples(path, GradeConfig(columns=columns)), ["phf"], 20.0)
    assert [(text.problem, text.number) for text in found.texts] == [("a", 0), ("a", 1)]
    assert found.rows[0].average == 0.5
    with pytest.raises(UserError, match=r"no column 'answer' among id, gold, out; set columns.answer to"):
        read_samples(path, OWN)


def test_a_problems_mean_is_no_score_of_a_sample(tmp_path: Path) -> None:
    """lm-eval with repeats, lighteval's avg@n: one score for several completions."""
    path = tmp_path / "samples.jsonl"
    line = {"doc_id": 0, "target": "7", "resps": [[r"\boxed{7}", r"\boxed{8}"]], "filter": "none", "metrics": ["mean"]}
    path.write_text(json.dumps(line | {"mean": 0.5}) + "\n")
    found = regrade(read_samples(path, OWN), ["phf", "strict"], 20.0)
    assert [row.average for row in found.rows] == [0.5, 0.5, 0.5]
    assert found.disagreements() == [("phf", "strict", 0.0, 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "no log of inspect_ai"),
        ("a.eval", "no zip", "not a whole .eval log"),
        ("a.jsonl", '{"doc_id": 0, "target": "7", "resps": 3, "filter": "", "metrics": []}', "not in the form"),
        ("a.jsonl", '{"answer": "", "completion": "7"}', "no completion has a gold answer"),
        ("a.jsonl", '{"answer": {"a": 1}, "completion": "7"}', "where text is wanted"),
        ("a.jsonl", '{"answer": "7", "completion": ["7"]}', "where text is wanted"),
        ("a.txt", "7", "unknown kind of file"),
    ],
)
def test_files_of_no_known_form_are_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content + "\n")
    with pytest.raises(UserError, match=message) as told:
        read_samples(path, OWN)
    assert str(path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_cut_eval_log_is_told(tmp_path: Path) -> None:
    path = shutil.copy(FILES / "inspect.eval", tmp_path / "cut.eval")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("samples/zz_epoch_1.json", '{"id": ')
    with pytest.raises(UserError, match=r"not a whole \.eval log"):
        read_samples(path, OWN)
