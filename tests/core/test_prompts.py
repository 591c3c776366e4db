"""Prompts: one rendering for student, teacher and evaluation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.cards import load_tokenizer
from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.prompts import INSTRUCTION, Prompts, build_prompts


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return build_prompts(load_tokenizer("embedded"), PromptSettings())


def test_the_student_sees_the_problem_and_the_published_instruction(prompts: Prompts) -> None:
    text = prompts.student_text("What is 1+1?")
    assert "What is 1+1?\n\n" + INSTRUCTION in text
    assert "system" not in text


def test_the_teacher_sees_the_reference_too_through_the_same_template(prompts: Prompts) -> None:
    student, teacher = prompts.student_text("P"), prompts.teacher_text("P", "R42")
    assert "R42" in teacher
    assert "R42" not in student
    opening = student.index("P")
    assert teacher[:opening] == student[:opening]
    assert teacher.rsplit(INSTRUCTION, 1)[1] == student.rsplit(INSTRUCTION, 1)[1]


def test_thinking_is_always_stated(prompts: Prompts) -> None:
    silent = build_prompts(load_tokenizer("embedded"), PromptSettings(thinking=False))
    assert silent.student_text("P") == prompts.student_text("P") + "<think>\n\n</think>\n\n"


@given(problem=st.text(min_size=1), solution=st.text(min_size=1))
def test_braces_and_backslashes_of_a_problem_are_left_alone(prompts: Prompts, problem: str, solution: str) -> None:
    assert prompts.teacher_text("{solution}" + problem, solution).count("{solution}") >= 1
    assert problem in prompts.student_text(problem)


def test_token_ids_are_those_of_the_text(prompts: Prompts) -> None:
    text = prompts.teacher_text("Start with 3, add 4.", "3+4=7. \\boxed{7}")
    assert prompts.teacher("Start with 3, add 4.", "3+4=7. \\boxed{7}") == prompts._ids(text)


def test_a_template_without_the_problem_is_refused() -> None:
    with pytest.raises(UserError, match=r"prompt\.teacher: the template lacks \{solution\}"):
        build_prompts(load_tokenizer("embedded"), PromptSettings(teacher="{problem}"))
