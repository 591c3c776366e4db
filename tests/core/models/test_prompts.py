"""Prompts of both readers, and chat templates."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_tokenizer
from phfcli.core.models.prompts import (
    INSTRUCTION,
    PLAIN_TEMPLATE,
    Prompts,
    build_prompts,
    continue_turn,
    fixed_template,
    render,
    thinking_state,
    turn_ends,
)


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


OPENS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].strip() if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)  # as DeepSeek-R1's: the prompt opens the thinking, and earlier thinking is stripped


def tokenizer(template: str | None) -> Any:
    own = load_tokenizer("embedded")
    own.chat_template = template
    return own


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "TemplateSyntaxError"),
        ("{{ raise_exception('no system role') }}", "TemplateError: no system role"),
        ("{{ messages[3].content }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_fails_is_one_line(template: str, message: str) -> None:
    with pytest.raises(
        UserError, match=f"the chat template of its tokenizer cannot render a prompt: .*{message}"
    ) as no:
        build_prompts(tokenizer(template), PromptSettings())
    assert "\n" not in str(no.value)
    assert "prompt.chat_template=FILE" in str(no.value)


def test_a_template_that_drops_the_problem_is_refused() -> None:
    with pytest.raises(UserError, match="leaves out the user's message"):
        build_prompts(tokenizer("hello"), PromptSettings())


def test_a_base_model_gets_plain_text_and_it_is_said() -> None:
    prompts = build_prompts(tokenizer(None), PromptSettings(student="{problem}"))
    assert prompts.chat_template == PLAIN_TEMPLATE
    assert prompts.student_text("1+1?") == "1+1?\n\n"
    assert prompts.target("1+1?", "2")[-1] == load_tokenizer("embedded").eos_token_id
    assert sum("no chat template" in note for note in prompts.notes()) == 1


def test_a_template_of_ones_own_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("Q: {{ messages[0].content }}\nA:")
    prompts = build_prompts(tokenizer(None), PromptSettings(student="{problem}", chat_template=str(file)))
    assert prompts.student_text("1+1?") == "Q: 1+1?\nA:"
    assert not any("no chat template" in note for note in prompts.notes())
    with pytest.raises(UserError, match=r"prompt\.chat_template: .*nothing\.jinja: no such file"):
        build_prompts(tokenizer(None), PromptSettings(chat_template=str(tmp_path / "nothing.jinja")))
    file.write_text("{% if")
    with pytest.raises(UserError, match=r"prompt\.chat_template: the template cannot render"):
        build_prompts(tokenizer(None), PromptSettings(chat_template=str(file)))


def test_its_path_means_the_same_from_any_working_directory() -> None:
    assert PromptSettings(chat_template="own.jinja").chat_template == str(Path("own.jinja").resolve())


@pytest.mark.parametrize(
    ("prompt", "state"),
    [
        ("<|im_start|>assistant\n", "before any thinking"),
        ("<|im_start|>assistant\n<think>\n", "inside a thinking part"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "behind a closed thinking part"),
        ("what does <think> mean?<|im_start|>assistant\n", "before any thinking"),
        ("[THINK]", "inside a thinking part"),
    ],
)
def test_where_a_turn_starts(prompt: str, state: str) -> None:
    assert thinking_state(prompt) == state


def test_readers_that_start_in_different_states_are_warned_of() -> None:
    same = build_prompts(load_tokenizer("embedded"), PromptSettings())
    assert same.notes() == ["both readers start before any thinking"]
    assert same.warnings() == []
    [warning] = build_prompts(load_tokenizer("embedded"), PromptSettings(teacher_thinking=False)).warnings()
    assert warning.startswith("the student's turn starts before any thinking, and the teacher reads it behind")


@pytest.mark.parametrize(
    ("template", "note"),
    [
        ("{{ messages[0].content }}", "the chat template has no thinking mode"),
        (OPENS, "both readers start inside a thinking part"),
    ],
)
def test_a_template_without_thinking_is_told_as_such(template: str, note: str) -> None:
    assert build_prompts(tokenizer(template), PromptSettings()).notes() == [note]


def test_thinking_is_neither_opened_twice_nor_stripped() -> None:
    prompts = build_prompts(tokenizer(OPENS), PromptSettings())
    assert prompts.student_text("P").endswith("<think>\n")
    assert prompts.target_text("P", "<think>\n3+4=7\n</think>\n\n7") == "3+4=7\n</think>\n\n7"


@pytest.mark.parametrize(
    ("prompt", "turn", "goes_on"),
    [
        ("<think>\n", "3+4=7", "</think>\n\n3+4=7"),
        ("[THINK]", "7", "[/THINK]\n\n7"),
        ("<|think|>", "7", "</|think|>\n\n7"),
        ("<think>\n", "<think>\n3+4=7", "</think>\n\n3+4=7"),  # a solution that opens a thought and never closes it
        ("<think>\n", "3+4=7</think>7", "3+4=7</think>7"),
        ("assistant\n", "3+4=7", "3+4=7"),
    ],
)
def test_a_solution_is_not_learned_inside_a_thought(prompt: str, turn: str, goes_on: str) -> None:
    assert continue_turn(prompt, turn) == goes_on


def test_the_token_that_ends_a_turn_ends_a_completion() -> None:
    own = load_tokenizer("embedded")
    end = own.convert_tokens_to_ids("<|im_end|>")
    assert turn_ends(own) == {end}
    own.eos_token = "<|endoftext|>"
    assert turn_ends(own) == {end} != {own.eos_token_id}
    assert turn_ends(tokenizer("{{ messages[5].content }}")) == set()
    ids = build_prompts(own, PromptSettings(), frozenset({end, own.eos_token_id})).target("P", "7")
    assert ids[-1] == end


def test_a_token_beyond_the_embedding_is_refused_before_a_problem_is_read(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("embedded")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    template = tmp_path / "template.jinja"
    template.write_text("<|new|>{{ messages[0].content }}")
    settings = PromptSettings(chat_template=str(template))
    assert build_prompts(tokenizer, settings, vocabulary=rows + 1).student("1")[0] == rows
    with pytest.raises(UserError, match=rf"token {rows} \('<\|new\|>'\), and the model's embedding has {rows} rows"):
        build_prompts(tokenizer, settings, vocabulary=rows)
    own = build_prompts(tokenizer, PromptSettings(), vocabulary=rows)
    with pytest.raises(UserError, match="embedding has"):
        own.student("what is <|new|>?")


@pytest.mark.parametrize("thinking", [True, False])
def test_a_fixed_template_renders_one_thinking_mode_whatever_is_asked_for(thinking: bool) -> None:
    tokenizer = load_tokenizer("embedded")
    turn = [{"role": "user", "content": "1"}]
    wanted = render(tokenizer, None, turn, thinking)
    fixed = fixed_template(tokenizer, None, thinking)
    assert {render(tokenizer, fixed, turn, mode) for mode in (True, False)} == {wanted}


CLOCKS = {  # as the templates of Llama 3.2, SmolLM3 and gpt-oss read it
    '{% if strftime_now is defined %}{% set d = strftime_now("%d %b %Y") %}{% endif %}{{ d }}': "05 Mar 2026",
    "{%- set today = strftime_now('%d %B %Y') -%}{{ today }}": "05 March 2026",
    '{{- "Current date: " + strftime_now( "%Y-%m-%d" ) }}': "2026-03-05",
}


@pytest.mark.parametrize("template", CLOCKS)
def test_a_template_that_reads_the_clock_says_the_day_of_the_settings(template: str) -> None:
    reading = tokenizer(template + " {{ messages[0].content }}")
    day = datetime.date(2026, 3, 5)
    prompts = build_prompts(reading, PromptSettings(student="{problem}", day=day))
    assert CLOCKS[template] in prompts.student_text("P")
    assert (prompts.day, build_prompts(reading, PromptSettings(), today=day).day) == (day, day)
    assert build_prompts(reading, PromptSettings(day=day), today=datetime.date(2020, 1, 1)).day == day
    assert "prompt says 2026-03-05" in prompts.notes()[-1]
    fixed = fixed_template(reading, None, True, day)
    assert CLOCKS[template] in render(tokenizer(None), fixed, [{"role": "user", "content": "P"}], True)


def test_a_template_that_reads_no_clock_has_no_day(prompts: Prompts) -> None:
    assert build_prompts(load_tokenizer("embedded"), PromptSettings(day=datetime.date(2026, 3, 5))).day is None
    assert prompts.day is None


def test_a_clock_among_several_templates_is_set_and_one_that_is_only_named_is_left() -> None:
    day, message = datetime.date(2026, 3, 5), "{{ messages[0].content }}"
    several = tokenizer("")
    several.chat_template = {"default": f"{{{{ strftime_now ('%Y\\n%d') }}}}{message}", "tool_use": message}
    assert "2026\n05" in build_prompts(several, PromptSettings(day=day)).student_text("P")
    named = tokenizer(f"{{# strftime_now #}}{{% if strftime_now is not defined %}}x{{% endif %}}{message}")
    assert build_prompts(named, PromptSettings()).day is None


@pytest.mark.parametrize(
    "clock", ["{% set form = '%Y' %}{{ strftime_now(form) }}", "{% set now = strftime_now %}{{ now('%Y') }}"]
)
def test_a_clock_that_cannot_be_set_is_refused(clock: str) -> None:
    reading = tokenizer(clock + "{{ messages[0].content }}")
    with pytest.raises(UserError, match="reads the clock in a form of its own"):
        build_prompts(reading, PromptSettings())


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}",
        "{{ 'x' * 10**10 }}{{ messages[0].content }}",
        "{{ messages[0].content }}{{ 'x' | center(10**10) }}",
        "{{ messages[0].content }}{% for i in range(9999) %}{{ 'a thousand letters' * 50 }}{% endfor %}",
        "{% generation %}{{ messages[0].content * 10**10 }}{% endgeneration %}",
    ],
)
def test_a_template_without_an_end_is_refused(tmp_path: Path, template: str) -> None:
    file = tmp_path / "own.jinja"
    file.write_text(template)
    with pytest.raises(UserError, match=r"prompt\.chat_template: the template takes more than 2 s or 512 MiB"):
        build_prompts(tokenizer(None), PromptSettings(chat_template=str(file)))
