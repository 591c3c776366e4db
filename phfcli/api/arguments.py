"""From the arguments of a call to settings, and errors of a call about its arguments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from phfcli.core.errors import UserError, nearest

if TYPE_CHECKING:
    from phfcli.core.config import EvalConfig, TrainConfig
    from phfcli.core.settings import Source

# dotted keys of the arguments of `train`, and of the options of `phf train`, that are not named like their setting
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


@contextmanager
def answering_other_names() -> Iterator[None]:
    """Within it an error about a setting of another trainer names the setting of this program."""
    try:
        yield
    except UserError as error:
        from phfcli.api.spellings import in_our_words

        error.args = (in_our_words(error),)
        raise


def checks_arguments(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Lets a call refuse an argument that it does not have with the nearest one that it has."""

    @wraps(call)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        getLogger("bitsandbytes").setLevel(ERROR)  # it logs a line whenever a library imports it
        for name in kwargs:
            if name not in signature(call).parameters:
                hint = nearest(name, signature(call).parameters)
                setting = "a setting that is no argument goes into config, as in config={'optim.lr': 1e-5}"
                raise TypeError(f"{call.__name__}() has no argument {name!r}; {hint}; {setting}")
        with answering_other_names():
            return call(*args, **kwargs)

    return checked


def sources_of(
    config: "str | Path | Mapping[str, Any] | TrainConfig | EvalConfig | Sequence[Any]",
    given: Mapping[str, Any],
    keys: Mapping[str, str] = KEYS,
) -> "list[Source]":
    """The sources of some settings, later ones winning: `config`, then what is given.

    config: a recipe's name, a YAML file, a mapping with plain or dotted keys, a whole config, or a sequence of these.
    given: the values by the names of their arguments; None means that an argument was not given.
    keys: the dotted keys of the arguments that are not named like their setting.
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
    from phfcli.core.settings import Source, file_sources, option_source

    if isinstance(part, str | Path):
        return file_sources([str(part)])
    if isinstance(part, Mapping):
        return [option_source(str(key), str(key), value) for key, value in part.items()]
    if hasattr(part, "model_dump"):
        return [Source("config", part.model_dump())]
    raise UserError(f"config: {part!r} is no recipe, file, mapping or config")
