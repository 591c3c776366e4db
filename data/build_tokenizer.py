"""The tokenizer of the embedded model: one token a byte, and one for each fixed phrase of its prompts and answers.

Any text is encoded without loss, since all 256 bytes are in the vocabulary and nothing is normalised or stripped. The
phrases keep prompts short, which is what makes the model quick: they are taken from the prompt templates and from the
texts of the problems, so a changed template changes the tokenizer with it.
"""

import re

from arithmetic import BOX, END_THINK, PHRASES, SEPARATOR, START, THINK
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from phfcli.core.models.prompts import INSTRUCTION, STUDENT_TEMPLATE, TEACHER_TEMPLATE

PAD, TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role not in " + repr(ROLES) + " %}"
    "{{- raise_exception('unknown role: ' ~ message.role) }}"
    "{%- endif %}"
    "{{- '" + TURN + "' ~ message.role ~ '\\n' ~ message.content ~ '" + END_TURN + "\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '" + TURN + "assistant\\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}"
    "{{- '" + THINK + "\\n\\n" + END_THINK + "\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def template_phrases() -> list[str]:
    """The fixed parts of the prompt templates, in order of appearance: what is left without placeholders."""
    parts = re.split(r"(?:\{\w+\})|(" + re.escape(INSTRUCTION) + ")", STUDENT_TEMPLATE + TEACHER_TEMPLATE)
    return list(dict.fromkeys(part for part in parts if part))


def build_tokenizer(max_length: int, by_character: bool = False) -> PreTrainedTokenizerFast:
    """A fast tokenizer whose ids are the 256 bytes, then the special tokens, then the phrases.

    by_character: only prompts and problems have phrases; solutions are read character by character.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = [f"{role}\n" for role in ROLES]
    own = [] if by_character else [SEPARATOR, THINK, END_THINK, BOX]
    phrases = dict.fromkeys([*template_phrases(), *roles, START, *PHRASES.values(), *own])
    tokenizer.add_special_tokens([_verbatim(token, special=True) for token in (PAD, TURN, END_TURN)])
    tokenizer.add_tokens([_verbatim(phrase, special=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END_TURN,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )


def _verbatim(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, special=special, normalized=False, lstrip=False, rstrip=False, single_word=False)
