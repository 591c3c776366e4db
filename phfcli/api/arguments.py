"""From the arguments of a call to settings, as from the options of a command."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from phfcli.api.wording import told_in_python
from phfcli.core.errors import nearest

if TYPE_CHECKING:
    from phfcli.core.config import EvalConfig, TrainConfig
    from phfcli.core.settings import Source


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
    given: Mapping[str, tuple[str, Any]],
) -> "list[Source]":
    """The sources of some settings, later ones winning: `config`, then what is given.

    config: a recipe's name, a YAML file, a mapping with plain or dotted keys, a whole config, or a sequence of these.
    given: by the name of the argument its dotted key and its value; None is not given.
    """
    from phfcli.core.settings import option_source

    several = isinstance(config, Sequence) and not isinstance(config, str)
    parts: list[Any] = list(config) if several else [config]  # type: ignore[arg-type]
    sources = [source for part in parts for source in _sources_of(part)]
    for name, (key, value) in given.items():
        if value is not None:
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
