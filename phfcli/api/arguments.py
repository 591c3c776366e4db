"""From the arguments of a call to settings, and messages in the words of a call."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from phfcli.core.errors import FaultError, UserError, nearest

if TYPE_CHECKING:
    from phfcli.core.config import EvalConfig, TrainConfig
    from phfcli.core.settings import Source

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
        from phfcli.api.spellings import in_our_words

        error.args = (in_python(in_our_words(error)),)
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


# the dotted keys of the arguments of `train`, and of the options of `phf train`, that are not called as their setting
KEYS = {
    "alpha": "flow.alpha",
    "teacher": "teacher.kind",
    "engine": "rollout.engine",
    "eval_every": "evaluation.every",
    "eval_bench": "evaluation.bench",
    "patience": "evaluation.patience",
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def tells_arguments(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Lets a call answer an argument that it has not with the nearest that it has, and name arguments in its errors."""

    @wraps(call)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        getLogger("bitsandbytes").setLevel(ERROR)  # it speaks whenever a library imports it
        for name in kwargs:
            if name not in signature(call).parameters:
                hint = nearest(name, signature(call).parameters)
                setting = "a setting that is no argument goes into config, as in config={'optim.lr': 1e-5}"
                raise TypeError(f"{call.__name__}() has no argument {name!r}; {hint}; {setting}")
        with told_in_python():
            return call(*args, **kwargs)

    return told


def sources_of(
    config: "str | Path | Mapping[str, Any] | TrainConfig | EvalConfig | Sequence[Any]",
    given: Mapping[str, Any],
    keys: Mapping[str, str] = KEYS,
) -> "list[Source]":
    """The sources of some settings, later ones winning: `config`, then what is given.

    config: a recipe's name, a YAML file, a mapping with plain or dotted keys, a whole config, or a sequence of these.
    given: the values by the names of their arguments; None is not given.
    keys: of the arguments that are not called as their setting.
    """
    from phfcli.core.settings import option_source

    several = isinstance(config, Sequence) and not isinstance(config, str)
    parts: list[Any] = list(config) if several else [config]  # type: ignore[arg-type]
    sources = [source for part in parts for source in _sources_of(part)]
    for name, value in given.items():
        if value is not None:
            key = keys.get(name, name)
            sources.append(option_source(name, key, str(value) if isinstance(value, Path) else value))
    return sources


def _sources_of(part: Any) -> "list[Source]":
    from phfcli.core.errors import UserError
    from phfcli.core.settings import Source, file_sources, option_source

    if isinstance(part, str | Path):
        return file_sources([str(part)])
    if isinstance(part, Mapping):
        return [option_source(str(key), str(key), value) for key, value in part.items()]
    if hasattr(part, "model_dump"):
        return [Source("config", part.model_dump())]
    raise UserError(f"config: {part!r} is no recipe, file, mapping or config")
