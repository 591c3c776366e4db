"""The problem sets of the study on a real model: right references, no problem twice, reading rows as the teacher's."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reasoning_gym", reason="wants the extra: pip install 'phfcli[study]'")

from real_families import find_equations, holds, work_words
from real_problems import SIZES, by_turns, cut, data_card, distinct, draw_sets, json_lines, privileged

from phfcli.core.models.prompts import Prompts

CARD = Path(__file__).parents[2] / "docs" / "study-real" / "DATA.md"

Row = dict[str, str]


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Row]]:
    return draw_sets()


def test_the_card_describes_these_very_bytes(sets: dict[str, list[Row]]) -> None:
    card = CARD.read_text(encoding="utf-8")
    assert card == data_card(sets)
    for rows in sets.values():
        assert hashlib.sha256(json_lines(rows).encode()).hexdigest() in card


def test_no_problem_is_in_two_sets(sets: dict[str, list[Row]]) -> None:
    plain = [row["problem"] for name, rows in sets.items() if name != "format" for row in rows]
    shown = [row["problem"].partition("\n\nA verified")[0] for row in sets["format"]]
    kept = [text for text in plain if "A verified reference" not in text]
    assert len(set(kept + shown)) == len(kept) + len(shown)


def test_ids_are_unique_and_sets_hold_their_families_evenly(sets: dict[str, list[Row]]) -> None:
    for rows in sets.values():
        assert len({row["id"] for row in rows}) == len(rows)
    for name in ("train", "dev", "eval", "planned"):
        families = [row["family"] for row in sets[name]]
        assert families == ["sums", "words", "legs"] * SIZES[name]


def test_every_equation_of_every_reference_is_true(sets: dict[str, list[Row]]) -> None:
    for row in (row for rows in sets.values() for row in rows):
        *lines, box = row["solution"].splitlines()
        assert box == f"\\boxed{{{row['answer']}}}"
        for line in lines:
            left, right = re.fullmatch(r"(?:[a-z ]+: )?(.+?) ?= ?(\d+)", line).groups()  # type: ignore[union-attr]
            large, mod, small = left.partition(" mod ")
            assert int(large) % int(small) == int(right) if mod else holds(left, right), line
        if row["family"] != "divisors":
            assert lines[-1].endswith(f"={row['answer']}")


def test_the_answers_of_sums_follow_from_the_problems_alone(sets: dict[str, list[Row]]) -> None:
    for row in (row for row in sets["train"] + sets["harder"] if row["family"] == "sums"):
        terms = re.findall(r"[+-]?\d+", row["problem"].replace(" ", ""))
        assert sum(map(int, terms)) == int(row["answer"])


def test_two_format_rows_of_five_hold_the_reference(sets: dict[str, list[Row]]) -> None:
    for family in ("sums", "words", "legs", "divisors"):
        rows = [row for row in sets["format"] if row["family"] == family]
        readers = [row for row in rows if row["solution"] in row["problem"]]
        assert len(readers) / len(rows) == pytest.approx(0.4, abs=0.01)


def test_a_reading_row_is_prompted_as_the_teacher_is(tokenizer: Any, sets: dict[str, list[Row]]) -> None:
    prompts, row = Prompts(tokenizer), sets["dev"][0]
    assert prompts.student_text(privileged(row)["problem"]) == prompts.teacher_text(row["problem"], row["solution"])


@pytest.mark.parametrize(
    ("text", "equations"),
    [
        ("So 7 days/week * 5 weeks/month = 35 days/month", [("7*5", "35")]),
        ("He has $1,400 - £200 = €1200 left.\nThen 3 x 4 + 1 = 13", [("1400-200", "1200"), ("3*4+1", "13")]),
        ("400 onions / 8 onions/minute = 50 minutes", [("400/8", "50")]),
        ("nothing at all = 5", []),
    ],
)
def test_equations_are_found_among_units(text: str, equations: list[tuple[str, str]]) -> None:
    assert find_equations(text) == equations


@pytest.mark.parametrize(
    ("left", "right", "true"),
    [
        ("2+3*4", "14", True),
        ("20-6/2", "17", True),
        ("7/2", "3", False),
        ("7/2+1/2", "4", False),  # a fraction on the way
        ("1/0", "1", False),
        ("1.5*2", "3", False),
        ("9-2-3", "4", True),
    ],
)
def test_an_equation_holds_in_whole_numbers_only(left: str, right: str, true: bool) -> None:
    assert holds(left, right) is true


def test_a_word_problem_that_does_not_fit_is_left_out() -> None:
    item = {
        "question": "How many? Give the result as",
        "answer": "12",
        "metadata": {"answer_cot": "3 * 4 = 12\n#### 12"},
    }
    kept = work_words(item, range(1, 3), 100, 50)
    assert kept is not None
    assert (kept.problem, kept.solution) == ("How many?", "3*4=12\n\\boxed{12}")
    assert work_words(item | {"answer": "13"}, range(1, 3), 100, 50) is None
    assert work_words(item, range(2, 3), 100, 50) is None
    assert work_words(item, range(1, 3), 11, 50) is None
    assert work_words(item, range(1, 3), 100, 5) is None


def test_too_few_problems_are_an_error() -> None:
    with pytest.raises(AssertionError, match="too few"):
        cut(iter([]), {"train": 1})
    assert list(distinct([])) == []
    assert by_turns("train", {"sums": []}) == []
