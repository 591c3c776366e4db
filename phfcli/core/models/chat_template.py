"""Chat templates: which one a model is prompted through, and what it leaves a reader to start from."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from phfcli.core.errors import UserError, first_line

# for a base model: the problem, an empty line, and the completion
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)

_OPENING = re.compile(r"<[\w:|]*think[\w|]*>|\[THINK\]", re.IGNORECASE)
_CLOSING = re.compile(r"</[\w:|]*think[\w|]*>|\[/THINK\]", re.IGNORECASE)
_PROBE = "phf-probe"


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    @property
    def eos_token_id(self) -> Any: ...

    @property
    def added_tokens_decoder(self) -> Any: ...


def render(tokenizer: ChatTokenizer, template: str | None, messages: Sequence[dict[str, str]], thinking: bool) -> str:
    """A conversation as text; one that ends with the user's turn becomes a prompt.

    Args:
        template: None is the tokenizer's own.

    Raises:
        UserError: for a template that is broken or that refuses the conversation.
    """
    own = {} if template is None else {"chat_template": template}
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=messages[-1]["role"] == "user",
            enable_thinking=thinking,
            **own,
        )
    except Exception as error:  # a template is a program, and may fail in any way
        raise UserError(
            f"{_owner(tokenizer, template)} cannot render a prompt: {type(error).__name__}: {first_line(error)}; give "
            "another one with --set prompt.chat_template=FILE"
        ) from None
    return text


def choose_template(tokenizer: ChatTokenizer, path: str | None) -> str | None:
    """The template of that file, or else None: the tokenizer's own; a tokenizer without one has the plain one.

    Raises:
        UserError: for a file that cannot be read, or a template that fails or leaves out what the user says.
    """
    chosen: str | None = None
    if path is not None:
        try:
            chosen = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompt.chat_template: {path} cannot be read: {first_line(error)}") from None
    elif not getattr(tokenizer, "chat_template", None):
        chosen = PLAIN_TEMPLATE
    if _PROBE not in render(tokenizer, chosen, [{"role": "user", "content": _PROBE}], thinking=True):
        raise UserError(f"{_owner(tokenizer, chosen)} leaves out what the user says; give another one")
    return chosen


def turn_ends(tokenizer: ChatTokenizer, template: str | None = None) -> set[int]:
    """The special token with which a template ends the assistant's turn, if it does; it also ends a completion."""
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    try:
        text = render(tokenizer, template, turns, thinking=True)
    except UserError:  # some have no place for a finished turn; a broken one is told where prompts are made
        return set()
    after = tokenizer.encode(text.rpartition(_PROBE)[2], add_special_tokens=False)
    special = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return set(after[:1]) & special


def names_thinking(prompt: str) -> bool:
    """Whether a prompt has a tag that opens or closes a thinking part."""
    return bool(_OPENING.search(prompt) or _CLOSING.search(prompt))


def thinking_state(prompt: str) -> str:
    """Where a completion starts, in words, as far as tags in the end of its prompt tell."""
    opened = [match.end() for match in _OPENING.finditer(prompt)]
    closed = [match.end() for match in _CLOSING.finditer(prompt)]
    if opened and opened[-1] > max(closed, default=0):
        return "inside a thinking part" if not prompt[opened[-1] :].strip() else "before any thinking"
    return "behind a closed thinking part" if closed and not prompt[closed[-1] :].strip() else "before any thinking"


def going_on(prompt: str, turn: str) -> str:
    """A turn as it goes on after its prompt.

    A thinking part that the prompt has opened is not opened again, and it is closed first where the turn never does: a
    solution must not be learned as a thought.
    """
    if thinking_state(prompt) != "inside a thinking part":
        return turn
    opening = _OPENING.match(turn.lstrip())
    rest = turn.lstrip()[opening.end() :].lstrip("\n") if opening else turn
    if _CLOSING.search(rest):
        return rest
    tag = _OPENING.findall(prompt)[-1]
    return f"{tag[0]}/{tag[1:]}\n\n{rest.lstrip()}"


def _owner(tokenizer: ChatTokenizer, template: str | None) -> str:
    if template is not None:
        return "prompt.chat_template: the template"
    return f"{getattr(tokenizer, 'name_or_path', '') or 'model'}: the chat template of its tokenizer"
