"""The embedded tokenizer loses nothing and keeps prompts short."""

import json
from pathlib import Path
from typing import Any

import pytest
from arithmetic import BOX, END_THINK, PHRASES, SEPARATOR, START, THINK
from build_tokenizer import build_tokenizer, template_phrases
from hypothesis import example, given
from hypothesis import strategies as st

from phfcli.core.models.prompts import INSTRUCTION, STUDENT_TEMPLATE, TEACHER_TEMPLATE, Prompts

USER = [{"role": "user", "content": "Hi."}]
PHRASE_TOKENS = [*template_phrases(), START, *PHRASES.values(), SEPARATOR, THINK, END_THINK, BOX]

anything = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from([*PHRASE_TOKENS, "<|im_end|>", " ", "\n", "\r\n"]), st.text(max_size=3))).map(
        "".join
    ),
)


@pytest.fixture(scope="session")
def rows(data_dir: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (data_dir / "eval.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def built() -> Any:
    return build_tokenizer(512)


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@given(text=anything)
@example(text=" \u00e9\U0001d11e\u0000 \t\n\n\n x  <|im_end|>\n ")
@example(text="Start with  5 , add  6.")
def test_any_text_survives(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


@given(text=anything)
def test_saving_and_loading_changes_no_id(tokenizer: Any, built: Any, text: str) -> None:
    assert encode(built, text) == encode(tokenizer, text)


def test_what_the_reader_needs_survives_skipping_special_tokens(tokenizer: Any) -> None:
    ids = encode(tokenizer, "<think>\n1+1=2\n</think>\n\n\\boxed{2}<|im_end|><|endoftext|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\n1+1=2\n</think>\n\n\\boxed{2}"


@pytest.mark.parametrize("phrase", PHRASE_TOKENS)
def test_a_phrase_is_one_token(tokenizer: Any, phrase: str) -> None:
    assert len(encode(tokenizer, phrase)) == 1


def test_the_phrases_are_the_templates_without_their_fields() -> None:
    assert INSTRUCTION in template_phrases()
    for template in (STUDENT_TEMPLATE, TEACHER_TEMPLATE):
        for phrase in sorted(template_phrases(), key=len, reverse=True):
            template = template.replace(phrase, "")
        assert template in ("{problem}", "{problem}{solution}")


def test_special_tokens(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert set(tokenizer.all_special_tokens) == {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
    assert encode(tokenizer, "57") == [*encode(tokenizer, "5"), *encode(tokenizer, "7")]


def test_prompts_are_short(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    prompts = Prompts(tokenizer)
    student = [len(prompts.student(row["problem"])) for row in rows]
    teacher = [len(prompts.teacher(row["problem"], row["solution"])) for row in rows]
    assert 18 <= min(student) <= max(student) <= 25
    assert max(teacher) <= 70


def test_the_chat_template(tokenizer: Any) -> None:
    def render(messages: list[dict[str, str]], **kwargs: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **kwargs))

    turn = "<|im_start|>user\nHi.<|im_end|>\n"
    generate = turn + "<|im_start|>assistant\n"
    assert render(USER) == turn
    assert render(USER, add_generation_prompt=True) == generate
    assert render(USER, add_generation_prompt=True, enable_thinking=True) == generate
    assert render(USER, add_generation_prompt=True, enable_thinking=False) == generate + "<think>\n\n</think>\n\n"
    system, assistant = {"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}
    assert render([system, *USER, assistant]) == (
        "<|im_start|>system\nS<|im_end|>\n" + turn + "<|im_start|>assistant\nA<|im_end|>\n"
    )


def test_an_unknown_role_is_refused(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
