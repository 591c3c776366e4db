"""Chat templates that break, refuse, are missing, open the thinking themselves or strip it."""

from pathlib import Path
from typing import Any

import pytest

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_tokenizer
from phfcli.core.models.prompts import PLAIN_TEMPLATE, build_prompts, continue_turn, thinking_state, turn_ends

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
    with pytest.raises(UserError, match=r"prompt\.chat_template: .*nothing\.jinja cannot be read"):
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
