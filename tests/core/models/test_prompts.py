"""Prompts: one rendering for student, teacher and evaluation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_tokenizer
from phfcli.core.models.prompts import INSTRUCTION, Prompts, build_prompts


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


def test_the_target_is_the_assistants_turn_up_to_its_end(prompts: Prompts) -> None:
    tokenizer = load_tokenizer("embedded")
    ids = prompts.target("P", "3+4=7. \\boxed{7}")
    assert tokenizer.decode(ids) == "3+4=7. \\boxed{7}<|im_end|>"
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("thinking", [True, False])
def test_a_template_may_write_something_before_the_solution(thinking: bool) -> None:
    tokenizer = load_tokenizer("embedded")
    # as Qwen3's does in the last turn
    before = (
        "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ ('<think>\\n\\n</think>\\n\\n' if message.role == 'assistant') ~"
    )
    plain = "{{- '<|im_start|>' ~ message.role ~ '\\n' ~"
    assert plain in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(plain, before)
    prompts = build_prompts(tokenizer, PromptSettings(thinking=thinking))
    whole = tokenizer.decode([*prompts.student("P"), *prompts.target("P", "\\boxed{7}")])
    assert whole.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n\\boxed{7}<|im_end|>")


def test_a_template_that_does_not_go_on_from_its_prompt_gets_the_solution_alone() -> None:
    prompts = build_prompts(load_tokenizer("embedded"), PromptSettings(thinking=False))
    assert prompts.target_text("P", "\\boxed{7}") == "\\boxed{7}"
    assert prompts.target("P", "\\boxed{7}")[-1] == load_tokenizer("embedded").eos_token_id


@pytest.mark.parametrize(("student", "teacher"), [(True, False), (False, True), (False, None)])
def test_thinking_is_each_readers_own(prompts: Prompts, student: bool, teacher: bool | None) -> None:
    own = build_prompts(load_tokenizer("embedded"), PromptSettings(thinking=student, teacher_thinking=teacher))
    silent = "<think>\n\n</think>\n\n"
    assert own.student_text("P") == prompts.student_text("P") + ("" if student else silent)
    assert own.teacher_text("P", "R") == prompts.teacher_text("P", "R") + ("" if teacher else silent)
