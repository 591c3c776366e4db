"""The same text in other tokens: what is paired ends at the same character."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import ModelCard, load_card
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import build_prompts
from phfcli.core.models.token_alignment import Retelling, same_tokens, token_ends
from phfcli.core.types import Problem

PROBLEM = Problem("p1", "Start with 1, add 2.")


@pytest.fixture(scope="module")
def retelling(stranger: Path) -> Retelling:
    teacher = load_card(str(stranger))
    return Retelling(load_card("embedded"), teacher, build_prompts(teacher.tokenizer, PromptSettings()))


def encode(card: ModelCard, text: str) -> list[int]:
    return list(card.tokenizer.encode(text, add_special_tokens=False))


def text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_ends_by_hand() -> None:
    tokenizer = load_card("embedded").tokenizer
    text, ends = token_ends(tokenizer, tokenizer.encode("<think>\n4é5<|im_end|>", add_special_tokens=False))
    assert text == "<think>\n4é5"
    assert ends == [7, 8, 9, None, 10, 11, None]  # é is two bytes, and the end of the turn has no text


def test_pairs_by_hand(retelling: Retelling) -> None:
    ids = encode(retelling.student, "<think>\n45\n</think>12<|im_end|>")
    got = retelling(Sample([1], [1], ids), PROBLEM)
    assert got.retold is not None
    read = retelling.teacher.tokenizer.convert_ids_to_tokens(list(got.retold.completion))
    assert read == [*"<", "th", *"ink>", "Ċ", "45", "Ċ<", "/", "th", *"ink>", "12", "<|im_end|>"]
    # <think>, its newline, 45 and 12 end where a token of the teacher does; 4, 1 and the second newline do not
    assert list(got.places or ()) == [0, 1, 3, 5, 7]
    assert list(got.retold.places or ()) == [5, 6, 7, 14, 15]
    assert got.completion == ids
    assert retelling.teacher.tokenizer.decode(list(got.retold.student_prompt)).startswith("<|im_start|>user\nStart")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from(["<think>", "45", "12", "4", "é", "🙂", "\\boxed{", "\n", "th", " ", "7"])),
    done=st.booleans(),
)
def test_what_is_paired_ends_at_the_same_character(retelling: Retelling, pieces: list[str], done: bool) -> None:
    ids = [token for piece in pieces for token in encode(retelling.student, piece)]  # not always as one text would be
    ids += [min(retelling.student.eos_ids)] * done
    got = retelling(Sample([1], [1], ids), PROBLEM)
    retold = got.retold
    assert retold is not None
    assert retold.places is not None
    assert got.places is not None
    assert text_of(retelling.teacher.tokenizer, list(retold.completion)) == "".join(pieces)
    assert (list(retold.completion[-1:]) == [min(retelling.teacher.eos_ids)]) == done
    assert len(got.places) == len(retold.places)
    for own, other in zip(got.places, retold.places, strict=True):
        mine = text_of(retelling.student.tokenizer, ids[: own + 1])
        assert mine == text_of(retelling.teacher.tokenizer, list(retold.completion[: other + 1]))
    if pieces:  # the whole text ends for both
        assert text_of(retelling.student.tokenizer, ids[: got.places[-1] + 1]) == "".join(pieces)


def test_half_a_character_at_the_end_is_no_place(retelling: Retelling) -> None:
    whole = encode(retelling.student, "7é")
    got = retelling(Sample([1], [1], whole[:-1]), PROBLEM)
    assert list(got.places or ()) == [0]


def test_what_does_not_fit_the_teacher_is_refused(retelling: Retelling) -> None:
    ids = encode(retelling.student, "<think>" * 90)
    with pytest.raises(UserError, match=r"teacher.model: a rollout of problem p1 takes \d+ of its tokens, more than"):
        retelling(Sample([1], [1], ids), PROBLEM)


def test_tokenizers_are_the_same_by_their_ids(retelling: Retelling) -> None:
    assert same_tokens(retelling.student.tokenizer, load_card("embedded").tokenizer)
    assert not same_tokens(retelling.student.tokenizer, retelling.teacher.tokenizer)
