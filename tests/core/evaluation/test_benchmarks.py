"""Benchmarks: the form of each gold answer, rows from a hub-shaped folder, and ids that tell problems apart."""

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import HUB, load_benchmark
from phfcli.core.grading import Status, build_grader
from phfcli.core.storage.tables import read_hub


@pytest.mark.parametrize(
    ("bench", "cell", "gold"),
    [
        ("aime24", "033", "033"),
        ("math500", "So $x = \\boxed{1}$, hence \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("gsm8k", "He pays 3*4=12.\n#### 1,234,567", "1234567"),
        ("hmmt25", " \\frac{1}{576} ", "\\frac{1}{576}"),
    ],
)
def test_golds(bench: str, cell: str, gold: str) -> None:
    assert HUB[bench].gold(cell) == gold


def test_a_hub_data_set_is_read_from_a_folder_of_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    frame = pandas.DataFrame({"problem": ["P"], "answer": ["073"], "problem_idx": [5]})
    frame.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    assert list(read_hub(str(tmp_path), "train")) == [{"problem": "P", "answer": "073", "problem_idx": 5}]
    with pytest.raises(UserError, match=r"cannot be loaded|cannot be reached"):
        read_hub(str(tmp_path), "validation")


def test_embedded_splits_are_disjoint_and_hashed() -> None:
    evaluation, development = (load_benchmark(name, EvalConfig()) for name in ("embedded", "embedded-dev"))
    assert len(evaluation.problems) == len(development.problems) == 128
    assert not {p.problem for p in evaluation.problems} & {p.problem for p in development.problems}
    assert evaluation.sha256 != development.sha256
    assert load_benchmark("embedded", EvalConfig(limit=3)).sha256 != evaluation.sha256


def test_repeated_ids_are_replaced_by_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    rows = [{"id": "same", "problem": p, "answer": "1"} for p in "ab"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.id for p in load_benchmark(str(path), EvalConfig()).problems] == ["0", "1"]


def write(path: Path, *answers: object) -> str:
    rows = [{"problem": f"P{number}", "answer": answer} for number, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_list_of_answers_holds_accepted_ones(tmp_path: Path) -> None:
    bench = load_benchmark(write(tmp_path / "b.jsonl", ["1/2", "0.5"], "3, 4"), EvalConfig())
    assert [problem.golds for problem in bench.problems] == [("1/2", "0.5"), ("3, 4",)]


def test_golds_that_are_no_answers_are_warned_of_refused_or_read_in_another_form(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", "87", "12 students", "13")
    [note] = load_benchmark(path, EvalConfig()).notes
    assert "1 of 3 gold answers are not plausible answers, such as '12 students'" in note
    assert load_benchmark(path, EvalConfig(gold="last-number")).problems[1].answer == "12"
    path = write(tmp_path / "c.jsonl", "The answer is 87.", "12 students")
    with pytest.raises(UserError, match=r"2 of 2 gold answers.*set gold to last-number"):
        load_benchmark(path, EvalConfig())


def test_bad_rows_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", "1", None)
    with pytest.raises(UserError, match="line 2: 'answer' is empty"):
        load_benchmark(path, EvalConfig())
    bench = load_benchmark(path, EvalConfig(bad_rows="skip"))
    assert (len(bench.problems), bench.notes[0]) == (1, f"{path}: 1 bad rows are left out: line 2: 'answer' is empty")


def as_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: list[dict[str, object]]) -> None:
    """A folder that `datasets` reads as it reads the hub's repository of that name."""
    source = HUB[name]
    (folder / "data").mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(folder / "data" / f"{source.split}-00000-of-00001.parquet")
    monkeypatch.setitem(HUB, name, replace(source, hub_id=str(folder), config=None))


ARENA = ("aime_2026", "hmmt_nov_2025", "hmmt_feb_2026", "brumo_2025", "smt_2025", "cmimc_2025")


@pytest.mark.parametrize("name", ARENA)
def test_math_arenas_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert (HUB[name].hub_id, HUB[name].split, HUB[name].revision) == (f"MathArena/{name}", "train", None)
    rows = [
        {"problem_idx": i, "problem": f"P{i}", "answer": rf"\frac{{1}}{{{i}}}", "problem_type": ["x"]} for i in (1, 2)
    ]
    as_hub(tmp_path / name, monkeypatch, name, rows)  # type: ignore[arg-type]
    bench = load_benchmark(name, EvalConfig())
    assert [(p.id, p.problem, p.answer) for p in bench.problems] == [
        ("1", "P1", r"\frac{1}{1}"),
        ("2", "P2", r"\frac{1}{2}"),
    ]
    assert f"{name}: read at its newest revision, because none is pinned" in bench.notes[0]


def test_a_hub_table_of_other_columns_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_hub(tmp_path / "h", monkeypatch, "aime_2026", [{"question": "P", "answer": "1"}])
    with pytest.raises(
        UserError, match=r"aime_2026: .* has no column 'problem' among question, answer: the data set has changed"
    ):
        load_benchmark("aime_2026", EvalConfig())
    as_hub(tmp_path / "g", monkeypatch, "gpqa_diamond", [{"Question": "Q", "Correct Answer": "1"}])
    with pytest.raises(UserError, match=r"gpqa_diamond: row 1 of .* is not a question with options: 'Incorrect Ans"):
        load_benchmark("gpqa_diamond", EvalConfig())


GPQA = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)} | {"Correct Answer": "right", "Question": "Which?"}


def test_multiple_choice_is_shuffled_by_a_stated_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_hub(tmp_path / "gpqa", monkeypatch, "gpqa_diamond", [GPQA | {"Record ID": f"rec{i}"} for i in range(24)])
    bench = load_benchmark("gpqa_diamond", EvalConfig())
    for problem in bench.problems:
        assert problem.problem.startswith("Which?\n\nA. ")
        assert f"{problem.answer}. right\n" in problem.problem
    assert {problem.answer for problem in bench.problems} == set("ABCD")
    assert bench.grader == "choice"
    assert "gpqa_diamond: options_seed=0 decides the order of its options" in bench.notes
    assert load_benchmark("gpqa_diamond", EvalConfig()).sha256 == bench.sha256
    assert load_benchmark("gpqa_diamond", EvalConfig(options_seed=1)).sha256 != bench.sha256
    assert load_benchmark("gpqa_diamond", EvalConfig(limit=3)).problems == bench.problems[:3]


def test_mmlu_pros_options_are_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = [f"option {i}" for i in range(10)]
    row = {"question_id": 70, "question": "Which?", "options": options, "answer": "D", "answer_index": 3}
    as_hub(tmp_path / "mmlu", monkeypatch, "mmlu_pro", [row])
    [problem] = load_benchmark("mmlu_pro", EvalConfig()).problems
    assert f"{problem.answer}. option 3\n" in problem.problem
    assert problem.id == "70"
    as_hub(tmp_path / "bad", monkeypatch, "mmlu_pro", [row | {"answer_index": 10}])
    with pytest.raises(UserError, match="answer_index 10 of 10 options"):
        load_benchmark("mmlu_pro", EvalConfig())


@pytest.mark.parametrize(
    ("box", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        (r"\text{C}", "C"),
        (r"\textbf{(C)} 15", "C"),
        ("C. 15", "C"),
        ("B", "B"),
        ("15", None),
        ("Carbon", None),
    ],
)
def test_a_choice_is_the_letter_of_the_last_box(box: str, letter: str | None) -> None:
    grader = build_grader("choice")
    [grade] = grader.grade([("C", rf"Not \boxed{{A}} but \boxed{{{box}}}")])
    wanted = {"C": Status.correct, None: Status.no_answer}.get(letter, Status.wrong)
    assert (grade.status, grade.answer) == (wanted, letter)


def test_an_own_multiple_choice_is_graded_by_letters(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"problem": "2 + 2", "choices": ["3", "4"], "answer": "4"}\n')
    bench = load_benchmark(str(file), EvalConfig())
    assert (bench.grader, bench.problems[0].golds) == ("choice", ("B",))


@pytest.mark.parametrize("gold", ["Paris", "AB", "K"])
def test_a_gold_that_is_no_letter_is_refused_by_the_grader_of_choices(gold: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(f'{{"problem": "Where?", "answer": "{gold}"}}\n')
    with pytest.raises(UserError, match=f"answer '{gold}' is no letter"):
        load_benchmark(str(file), EvalConfig(grader="choice"))
