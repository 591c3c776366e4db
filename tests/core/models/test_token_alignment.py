"""The same text in other tokens: what is paired ends at the same character."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import ModelDescription, load_description
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import TokenAlignment, same_tokens, token_ends
from phfcli.core.types import Problem

PROBLEM = Problem("p1", "Start with 1, add 2.")


@pytest.fixture(scope="module")
def alignment(stranger: Path) -> TokenAlignment:
    teacher = load_description(str(stranger))
    return TokenAlignment(load_description("embedded"), teacher, build_prompts(teacher.tokenizer, PromptSettings()))


def encode(description: ModelDescription, text: str) -> list[int]:
    return list(description.tokenizer.encode(text, add_special_tokens=False))


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_ends_by_hand() -> None:
    tokenizer = load_description("embedded").tokenizer
    text, ends = token_ends(tokenizer, tokenizer.encode("<think>\n4é5<|im_end|>", add_special_tokens=False))
    assert text == "<think>\n4é5"
    assert ends == [7, 8, 9, None, 10, 11, None]  # é is two bytes, and the end of the turn has no text


def test_pairs_by_hand(alignment: TokenAlignment) -> None:
    ids = encode(alignment.student, "<think>\n45\n</think>12<|im_end|>")
    got = alignment(Sample([1], [1], ids), PROBLEM)
    assert got.in_teacher_tokens is not None
    read = alignment.teacher.tokenizer.convert_ids_to_tokens(list(got.in_teacher_tokens.completion))
    assert read == [*"<", "th", *"ink>", "Ċ", "45", "Ċ<", "/", "th", *"ink>", "12", "<|im_end|>"]
    # <think>, its newline, 45 and 12 end where a token of the teacher does; 4, 1 and the second newline do not
    assert list(got.aligned_positions or ()) == [0, 1, 3, 5, 7]
    assert list(got.in_teacher_tokens.aligned_positions or ()) == [5, 6, 7, 14, 15]
    assert got.completion == ids
    assert alignment.teacher.tokenizer.decode(list(got.in_teacher_tokens.student_prompt)).startswith(
        "<|im_start|>user\nStart"
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from(["<think>", "45", "12", "4", "é", "🙂", "\\boxed{", "\n", "th", " ", "7"])),
    done=st.booleans(),
)
def test_what_is_paired_ends_at_the_same_character(alignment: TokenAlignment, pieces: list[str], done: bool) -> None:
    ids = [token for piece in pieces for token in encode(alignment.student, piece)]  # not always as one text would be
    ids += [min(alignment.student.eos_ids)] * done
    got = alignment(Sample([1], [1], ids), PROBLEM)
    in_teacher_tokens = got.in_teacher_tokens
    assert in_teacher_tokens is not None
    assert in_teacher_tokens.aligned_positions is not None
    assert got.aligned_positions is not None
    assert text_of(alignment.teacher.tokenizer, list(in_teacher_tokens.completion)) == "".join(pieces)
    assert (list(in_teacher_tokens.completion[-1:]) == [min(alignment.teacher.eos_ids)]) == done
    assert len(got.aligned_positions) == len(in_teacher_tokens.aligned_positions)
    for own, other in zip(got.aligned_positions, in_teacher_tokens.aligned_positions, strict=True):
        mine = text_of(alignment.student.tokenizer, ids[: own + 1])
        assert mine == text_of(alignment.teacher.tokenizer, list(in_teacher_tokens.completion[: other + 1]))
    if pieces:  # the whole text ends for both
        assert text_of(alignment.student.tokenizer, ids[: got.aligned_positions[-1] + 1]) == "".join(pieces)


def test_half_a_character_at_the_end_is_no_place(alignment: TokenAlignment) -> None:
    whole = encode(alignment.student, "7é")
    got = alignment(Sample([1], [1], whole[:-1]), PROBLEM)
    assert list(got.aligned_positions or ()) == [0]


def test_what_does_not_fit_the_teacher_is_refused(alignment: TokenAlignment) -> None:
    ids = encode(alignment.student, "<think>" * 90)
    with pytest.raises(
        UserError, match=r"teacher.model: a rollout of problem p1 takes \d+ of the teacher's tokens, more than"
    ):
        alignment(Sample([1], [1], ids), PROBLEM)


def test_tokenizers_are_the_same_by_their_ids(alignment: TokenAlignment) -> None:
    assert same_tokens(alignment.student.tokenizer, load_description("embedded").tokenizer)
    assert not same_tokens(alignment.student.tokenizer, alignment.teacher.tokenizer)
