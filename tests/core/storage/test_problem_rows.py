"""Rows become problems by one schema: each cell is right, or named by file, row and column."""

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from phfcli.core.errors import UserError
from phfcli.core.storage.problem_rows import Columns, lost_turns, read_problems, rows_hash, skipped_rows
from phfcli.core.storage.tables import ListedRows, Row, read_rows
from phfcli.core.types import Problem

COLUMNS = Columns(solution="solution", answer="answer", required=("problem", "answer"))
GOOD = {"problem": "P", "solution": "S", "answer": "1"}


def table(*rows: dict[str, Any]) -> ListedRows:
    return ListedRows(rows, list(dict.fromkeys(name for row in rows for name in row)))


def problem(**cells: Any) -> Problem:
    return read_problems(table({**GOOD, **cells}), COLUMNS, "data")[0]


def refusal(**cells: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_problems(table(GOOD, {**GOOD, **cells}), COLUMNS, "data.jsonl")
    return str(caught.value)


MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "last"},
    {"role": "assistant", "content": "yes"},
]


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ({"answer": 7}, ("7",)),
        ({"answer": 27.0}, ("27.0",)),
        ({"answer": Decimal("1.50")}, ("1.50",)),
        ({"answer": "a, b"}, ("a, b",)),
        ({"answer": ["1/2", "0.5", "1/2", 3]}, ("1/2", "0.5", "3")),
    ],
)
def test_answers(cells: dict[str, Any], wanted: tuple[str, ...]) -> None:
    assert problem(**cells).golds == wanted
    assert problem(**cells).answer == wanted[0]


def test_messages_hold_the_problem_and_the_solution() -> None:
    got = problem(problem=MESSAGES, solution=MESSAGES)
    assert (got.problem, got.solution) == ("last", "yes")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"problem": None}, "'problem' is empty"),
        ({"problem": " "}, "'problem' is empty"),
        ({"answer": float("nan")}, "'answer' holds nan, which is no number"),
        ({"answer": True}, "'answer' holds true or false"),
        ({"answer": {"value": 1}}, "'answer' holds an object"),
        ({"answer": []}, "'answer' is an empty list"),
        ({"answer": [1, None]}, "'answer' holds nothing"),
        ({"answer": [[1]]}, "'answer' holds a list"),
        ({"problem": [1, 2]}, "'problem' holds a list, and text or a list of messages"),
        ({"problem": MESSAGES[:1]}, "'problem' holds messages without a turn of the user"),
        ({"solution": MESSAGES[:2]}, "'solution' holds messages without a turn of the assistant"),
        ({"solution": b"bytes"}, "'solution' holds bytes"),
        ({"problem": "half \ud800 of it"}, "'problem' holds half of a character"),
        ({"answer": "\udc00"}, "'answer' holds half of a character"),
    ],
)
def test_other_cells_are_named(cells: dict[str, Any], message: str) -> None:
    said = refusal(**cells)
    assert said.startswith("data.jsonl: row 2: ")
    assert message in said
    assert "with bad_rows=skip" in said
    assert "\n" not in said


def test_a_later_row_without_a_column_is_named() -> None:
    with pytest.raises(UserError, match="row 2: it has no 'answer'"):
        read_problems(table(GOOD, {"problem": "P"}), COLUMNS, "data")


def test_bad_rows_are_left_out_counted_and_listed_on_request() -> None:
    rows = [GOOD, {**GOOD, "answer": None}, {**GOOD, "problem": "Q"}, {"problem": "R"}]
    problems = read_problems(table(*rows), COLUMNS, "data", "skip")
    assert [p.problem for p in problems] == ["P", "Q"]
    assert [problems[i].problem for i in range(len(problems))] == ["P", "Q"]
    assert skipped_rows("data", problems.bad) == (
        "data: 2 bad rows are left out: row 2: 'answer' is empty; row 4: it has no 'answer'"
    )
    with pytest.raises(UserError, match="no row is good: row 1: 'answer' is empty"):
        read_problems(table({**GOOD, "answer": ""}), COLUMNS, "data", "skip")


def test_a_null_of_parquet_is_empty_and_never_the_word_nan(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"problem": ["P", "Q"], "answer": ["1", None], "solution": [None, "S"]}), path)
    with pytest.raises(UserError, match="row 2: 'answer' is empty"):
        read_problems(read_rows(path), COLUMNS, str(path))
    assert read_problems(read_rows(path), COLUMNS, str(path), "skip")[0].solution is None


def test_lists_and_messages_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = {"problem": [MESSAGES, MESSAGES[:2]], "answer": [["1", "2"], ["3"]]}
    parquet.write_table(pyarrow.table(rows), path)
    problems = read_problems(read_rows(path), COLUMNS, str(path))
    assert [(p.problem, p.golds) for p in problems] == [("last", ("1", "2")), ("first", ("3",))]


def test_slices_and_choices_keep_ids() -> None:
    rows = [{**GOOD, "id": name, "problem": name} for name in "abcd"]
    problems = read_problems(table(*rows), COLUMNS, "data")
    assert [p.id for p in problems[1:3]] == ["b", "c"]
    assert [p.id for p in problems.where(lambda p: p.problem in "ad")] == ["a", "d"]
    twice = read_problems(table(*rows, {**GOOD, "id": "a"}), COLUMNS, "data")
    assert [p.id for p in twice] == ["0", "1", "2", "3", "4"]


def test_the_hash_of_rows_with_one_answer_is_that_of_their_four_fields() -> None:
    one = Problem("0", "P", None, "1")
    # evaluations on disk hold such hashes, and are refused where the hash is another
    assert rows_hash([one]) == "b749fa7f3a0ebc283070af5b69e4f5b10c4790e39e69aaec6de8bebbace0a8b4"
    assert rows_hash([one]) != rows_hash([Problem("0", "P", None, "1", ("1", "2"))])


class CountedRows(ListedRows):
    """Rows that count how often all of them are read."""

    times = 0

    def __iter__(self) -> Iterator[Row]:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("ids", ["abcd", "abca", ["", "x", "y", "z"]])
def test_a_data_set_is_read_once_for_its_check_and_its_hash(ids: Sequence[str]) -> None:
    rows = CountedRows([{**GOOD, "id": name, "solution": str(index)} for index, name in enumerate(ids)], [*GOOD, "id"])
    problems = read_problems(rows, COLUMNS, "data")
    found = problems.sha256
    assert rows.times == 1
    assert found == rows_hash(problems)
    chosen, times = problems.where(lambda p: p.solution != "1"), rows.times
    found = chosen.sha256
    assert rows.times == times
    assert (found, problems[1:].sha256) == (rows_hash(chosen), rows_hash(list(problems)[1:]))


@pytest.mark.parametrize(
    ("cells", "lost"),
    [
        ({"problem": MESSAGES[1:2]}, 0),
        ({"problem": MESSAGES[1:3], "solution": MESSAGES[1:3]}, 0),
        ({"problem": MESSAGES[:2]}, 1),
        ({"problem": MESSAGES[1:4]}, 1),
        ({"solution": MESSAGES[:3]}, 1),
        ({"solution": MESSAGES[1:]}, 1),
    ],
)
def test_rows_that_lose_turns_are_counted(cells: dict[str, Any], lost: int) -> None:
    problems = read_problems(table(GOOD, {**GOOD, **cells}, {**GOOD, **cells}), COLUMNS, "data")
    assert problems.shortened == 2 * lost
    told = lost_turns("data", problems.shortened)
    assert [line[:12] for line in told] == ["data: 2 rows"] * lost


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner),
    max_leaves=6,
)


@given(problem=CELLS, answer=CELLS, solution=CELLS)
def test_any_cell_is_read_as_it_is_or_refused(problem: Any, answer: Any, solution: Any) -> None:
    row = {"problem": problem, "answer": answer, "solution": solution}
    said = ""
    try:
        [got] = read_problems(table(row), COLUMNS, "data")
    except UserError as error:
        said = str(error)
    if said:
        assert said.startswith("data: row 1: ")
        return
    for cell, text in ((problem, got.problem), (solution, got.solution)):
        if isinstance(cell, str | int | float):
            assert text == (str(cell) if not isinstance(cell, str) or cell.strip() else None)
        elif cell is not None:
            assert text in json.dumps(cell, ensure_ascii=False) or text in str(cell)
    if isinstance(answer, str):
        assert got.answer == answer.strip()


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["3", "4", "5"], "4", "B"),  # the text
        (["3", "4", "5"], 2, "C"),  # a number is an index, even where it is a text too
        (["x", "y"], "1", "B"),
        (["x", "y"], "A", "A"),
        (["x", "y"], "(B)", "B"),
        ({"A": "x", "B": "y"}, "y", "B"),
        ({"1": "x", "2": "y"}, "2", "B"),  # a label before an index
        ({"text": ["x", "y"], "label": ["A", "B"]}, "B", "B"),
    ],
)
@pytest.mark.parametrize("column", ["choices", "options"])
def test_the_answer_to_a_multiple_choice_is_a_letter(column: str, options: object, answer: object, letter: str) -> None:
    (question,) = read_problems(table({"problem": "Which?", column: options, "answer": answer}), COLUMNS, "mine")
    assert question.answer == letter
    first = "A. 3\nB. 4\nC. 5" if "4" in str(options) else "A. x\nB. y"
    assert question.problem == f"Which?\n\n{first}\n\nAnswer with the letter of the right option."


@pytest.mark.parametrize(
    ("options", "answer", "says"),
    [
        (["x", "y"], "z", "'answer' holds 'z', which is no label, text or index of the options A, B"),
        (["x", "y"], 2, "'answer' holds '2', which is no label"),
        (["x", "x"], "x", "'answer' holds 'x', which is no label"),  # either
        (["x"], "x", "'choices' holds no options: a list of 2 to 10 texts"),
        (["x", None], "x", "'choices' holds nothing"),
        (["x", "y"], True, "'answer' holds true or false"),
    ],
)
def test_a_choice_without_a_right_option_is_a_bad_row(options: object, answer: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_problems(table({"problem": "Which?", "choices": options, "answer": answer}), COLUMNS, "mine")
