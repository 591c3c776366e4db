"""A message in the words of Python: the core names options of the command line, and a call has arguments."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from phfcli.core.errors import FaultError, UserError

_ARGUMENTS = (
    *("alpha", "base", "bench", "checkpoint-every", "config", "data", "devices", "engine", "eval-bench", "eval-every"),
    *("keep", "limit", "max-new-tokens", "model", "n", "objective", "output-dir", "patience", "report-to", "seed"),
    *("steps", "teacher", "temperature", "unit", "view", "workers"),
)
_FLAGS = ("resume", "force", "unequal")
_SETTINGS = {"lr": "optim.lr", "learning-rate": "optim.lr", "batch-size": "batch_size"}
_OTHERS = {"samples": "write_samples", "teacher-prompt": "config={'prompt.teacher': TEXT}"}
_COMMAND_ONLY = {"processes": "`phf train --processes N`"}  # Python trains in its own process

_CODE = re.compile(r"(`[^`]*`)")  # a command to give in a shell stays as it is
_SET = re.compile(r"--set ([\w.]+)=([^\s;,:)]+)")
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")
_WITH_VALUE = re.compile(r"(?<![\w-])--(objective|engine|unit|view|teacher|config|report-to|n) ([A-Z]+\b|[\w./-]*\w)")
_LABEL = re.compile(r"^--([a-z-]+)(?: (\S+))?: ")
_NO_VALUE = ("and", "or", "with", "which", "is", "of")
_WORDS = {"null": "None", "true": "True", "false": "False"}


def in_python(message: str) -> str:
    """The message with an argument, or an entry of `config`, where it has an option of a command."""
    parts = _CODE.split(_LABEL.sub(_label, message))
    return "".join(part if part.startswith("`") else _told(part) for part in parts)


@contextmanager
def told_in_python() -> Iterator[None]:
    """Within it the errors that a user sees name the arguments of a call."""
    try:
        yield
    except (UserError, FaultError) as error:
        error.args = (in_python(str(error)),)
        raise


def _told(text: str) -> str:
    text = _SET.sub(lambda found: f"config={{'{found[1]}': {_value(found[2])}}}", text)
    text = _WITH_VALUE.sub(_with_value, text)
    return _OPTION.sub(lambda found: _argument(found[1]) or found[0], text)


def _label(found: re.Match[str]) -> str:
    """What a message begins with: the argument that it is about."""
    name, value = found.groups()
    if name in (*_ARGUMENTS, *_FLAGS):
        return f"{_spelt(name)}{f'={_value(value)}' if value else ''}: "
    return found[0]


def _with_value(found: re.Match[str]) -> str:
    name, value = found.groups()
    return found[0] if value in _NO_VALUE else f"{_spelt(name)}={_value(value)}"


def _argument(option: str) -> str | None:
    """What stands in Python for an option of ours; None is one of another program, such as a server's."""
    if option in _FLAGS:
        return f"{option}=True"
    if option in _SETTINGS:
        return f"config={{'{_SETTINGS[option]}': VALUE}}"
    return _spelt(option) if option in _ARGUMENTS else (_OTHERS | _COMMAND_ONLY).get(option)


def _spelt(option: str) -> str:
    return option.replace("-", "_")


def _value(text: str) -> str:
    """A value as Python has it; a word of capitals stands for one."""
    plain = text in _WORDS or text.isupper() or re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text)
    return _WORDS.get(text, text) if plain else repr(text)
