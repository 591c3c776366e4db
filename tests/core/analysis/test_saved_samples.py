"""Files that other tools wrote themselves are read, and graded again to the score that their own code gave.

write_peer_files.py made the files, with lm-eval 0.4.13, lighteval 0.13.0 (latex2sympy2_extended 1.0.6) and inspect_ai
0.3.285; the scores below are those that the tools' code wrote into them.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phfcli.core.analysis.regrade import Regrading, regrade
from phfcli.core.analysis.saved_samples import read_samples
from phfcli.core.config import GradeConfig, SampleColumns
from phfcli.core.errors import UserError
from phfcli.core.evaluation import samples
from phfcli.core.evaluation.samples import SampleTask
from phfcli.core.names import PolicyName
from phfcli.core.types import Completion, Problem
from phfcli.grading import Grader

FILES = Path(__file__).parent / "files"
OWN = GradeConfig()

# what each tool's own code gave to the ten samples
LM_EVAL_STRICT = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]
LM_EVAL_FLEXIBLE = [0, 1, 0, 0, 1, 0, 1, 0, 1, 0]
LIGHTEVAL = [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
INSPECT_MATCH = [0, 1, 0, 0, 1, 0, 0, 0, 1, 0]
INSPECT_EXACT = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=1, timeout_s=20.0) as shared:
        yield shared


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
        ("a.json", '{"eval": {}, "samples": 5}', "samples is 5 where a list is wanted"),
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


def _archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _claiming(path: Path) -> Path:
    """An archive whose header says that its member unpacks to 3 GiB."""
    data = bytearray(_archive(path, {"header.json": b"{}"}).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (3 * 2**30).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def _encrypted(path: Path) -> Path:
    data = bytearray(_archive(path, {"header.json": b"{}"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


def _broken(path: Path) -> Path:
    data = bytearray(_archive(path, {"header.json": b"{}" * 1000}).read_bytes())
    data[45:55] = b"\xff" * 10
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_claiming, "holds more than 2,048 MiB"),
        (_encrypted, "not a whole .eval log of inspect_ai: .*password|encrypted"),
        (_broken, "not a whole .eval log"),
        (lambda path: _archive(path, {"header.json": b"["}), "not a whole .eval log"),
        (lambda path: _archive(path, {"header.json": b"[" * 10**5}), "not a whole .eval log"),
        (lambda path: _archive(path, {"other": b"{}"}, zipfile.ZIP_LZMA), "not a whole .eval log"),
    ],
    ids=["claims", "encrypted", "broken", "cut", "deep", "empty"],
)
def test_an_archive_is_checked_before_it_is_unpacked(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_samples(make(tmp_path / "log.eval"), GradeConfig())


def test_a_cut_eval_log_is_told(tmp_path: Path) -> None:
    path = shutil.copy(FILES / "inspect.eval", tmp_path / "cut.eval")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("samples/zz_epoch_1.json", '{"id": ')
    with pytest.raises(UserError, match=r"not a whole \.eval log"):
        read_samples(path, OWN)


def foreign(name: str) -> Regrading:
    return graded(f"foreign/{name}", "phf")


@pytest.mark.parametrize(
    ("name", "samples", "phf", "stored", "note"),
    [
        ("lm_cat.jsonl", 4, 0.75, {"none/exact_match": 0.75}, None),  # two subtasks joined, each with its ids from 0
        ("lm_none.jsonl", 2, 1.0, {"none/exact_match": 1.0}, "1 of 2 samples have no stored score of none/exact_match"),
        ("lm_bypass.jsonl", 1, 1.0, {}, "none/bypass are not between 0 and 1"),
        ("err.json", 3, 1 / 3, {"match": 0.5}, "1 of 3 samples failed in the other tool"),
        ("nan.json", 3, 2 / 3, {"match": 0.5}, "1 of 3 samples have no stored score of match"),
        ("v012.parquet", 4, 0.75, {"avg@n": 0.75}, None),
    ],
)
def test_what_other_tools_write_is_counted_as_they_count_it(
    name: str, samples: int, phf: float, stored: dict[str, float], note: str | None
) -> None:
    found = foreign(name)
    assert len(found.texts) == samples
    assert {row.name: row.average for row in found.rows} == pytest.approx(
        {"phf": phf} | {f"stored: {metric}": score for metric, score in stored.items()}
    )
    assert (note is None and not found.notes) or (note is not None and note in " ".join(found.notes))
    assert all(difference == 0 for _, _, difference, _ in found.disagreements())  # over the samples with both scores
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [("lm_mc.jsonl", "line 1: it holds likelihoods of choices"), ("dup.eval", "sample 0 of problem a occurs twice")],
)
def test_what_cannot_be_graded_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        foreign(name)
    assert "\n" not in str(error.value)


LM_LINE = {"doc_id": 0, "target": "7", "resps": [[r"\boxed{7}"]], "filter": "none", "metrics": ["m"], "m": 1}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_repeated_sample_counts_once(tmp_path: Path) -> None:
    [text] = read_samples(written(tmp_path / "a.jsonl", LM_LINE, LM_LINE, LM_LINE), OWN).texts
    assert text.stored == {"none/m": 1.0}
    sample = json.loads((FILES / "foreign/nan.json").read_text())["samples"][0]
    log = tmp_path / "log.json"
    log.write_text(json.dumps({"eval": {}, "samples": [sample] * 3}))
    saved = read_samples(log, OWN)
    assert len(saved.texts) == 1
    assert list(saved.notes) == ["2 repeated samples count once"]
    with pytest.raises(UserError, match="document 0 occurs twice under the filter none"):
        read_samples(written(tmp_path / "b.jsonl", LM_LINE, LM_LINE | {"resps": [["8"]]}), OWN)


@pytest.mark.parametrize(
    "line",
    [
        LM_LINE | {"resps": ["abc"]},
        LM_LINE | {"resps": "abc"},
        LM_LINE | {"metrics": "m"},
        {"doc": {"id": "0", "choices": ["7"], "gold_index": 0}, "model_response": {"text": "abc"}, "metric": {}},
        {"doc": {"id": "0", "choices": "789", "gold_index": 0}, "model_response": {"text": ["a"]}, "metric": {}},
    ],
)
def test_a_string_is_no_list_of_letters(tmp_path: Path, line: object) -> None:
    with pytest.raises(UserError, match="where a list is wanted"):
        read_samples(written(tmp_path / "a.jsonl", line), OWN)


def test_rows_without_text_are_left_out_and_told(tmp_path: Path) -> None:
    good = {"problem": "1+6", "answer": "7", "completion": r"\boxed{7}"}
    bad = [{"answer": gold} for gold in (float("nan"), True, float("inf"), None, "")]
    bad += [{"problem": ""}, {"problem": None}, {"completion": float("nan")}, {"completion": False}]
    path = written(tmp_path / "a.jsonl", good, *({**good, **change} for change in bad))
    saved = read_samples(path, OWN)
    assert len(saved.texts) == 1
    assert saved.notes[0].startswith("9 rows are left out: line 2 has nan as gold answer, where text is wanted; line 3")


def test_integers_beside_an_empty_cell_stay_integers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pandas.DataFrame({"answer": [7, None], "completion": ["7", "8"]}).to_parquet(path)
    saved = read_samples(path, OWN)
    assert [text.golds for text in saved.texts] == [("7",)]
    assert len(saved.notes) == 1


GOLDS = st.one_of(
    st.sampled_from(["34 or 977", "#### 7", r"\boxed{7} or 8", "a\nb", "x or y", "7", r"\frac12", " 7 ", "1, 2"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)
TEXTS = st.one_of(GOLDS, st.sampled_from(["34", "977", "8"])).map(lambda answer: rf"so \boxed{{{answer}}}")


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(GOLDS, min_size=1, max_size=3, unique=True), TEXTS, st.booleans()), min_size=1))
def test_phf_gives_its_own_files_their_stored_score(grader: Grader, drawn: list[tuple[list[str], str, bool]]) -> None:
    """Golds that hold "or", or that look like whole solutions, are kept as they are."""
    problems = [Problem(str(i), "?", answer=golds[0], accepted=tuple(golds)) for i, (golds, _, _) in enumerate(drawn)]
    description: Any = SimpleNamespace(text=lambda ids: drawn[ids[0]][1])
    completions = [
        (SampleTask(problem, 0, 0), Completion((i,), (), "stop" if whole else "length"))
        for i, (problem, (_, _, whole)) in enumerate(zip(problems, drawn, strict=True))
    ]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr("phfcli.core.analysis.regrade.build_grader", lambda *_: nullcontext(grader))
        path = written(Path(folder) / "samples.jsonl", *samples.grade(completions, description, grader))
        saved = read_samples(path, OWN)
        assert [(text.golds, text.text) for text in saved.texts] == [(tuple(golds), text) for golds, text, _ in drawn]
        ours, stored = regrade(saved, ["phf"], 20.0).rows
        assert list(ours.scores) == list(stored.scores)


def test_an_old_gold_of_several_answers_is_told(tmp_path: Path) -> None:
    row = {"problem": "a", "sample": 0, "status": "wrong", "gold": "34 or 977", "text": r"\boxed{34}"}
    saved = read_samples(written(tmp_path / "samples.jsonl", row), OWN)
    assert saved.texts[0].golds == ("34", "977")
    assert "older phf" in saved.notes[0]


def test_own_samples_are_graded_by_their_own_grader(tmp_path: Path) -> None:
    row = {"problem": "a", "sample": 0, "status": "correct", "golds": ["C"], "text": r"\boxed{C. because}"}
    path = written(tmp_path / "samples.jsonl", row)
    (tmp_path / "settings.json").write_text('{"grader": "choice"}')
    ours, stored = regrade(read_samples(path, OWN), ["phf"], 20.0).rows
    assert ours.average == stored.average == 1.0
