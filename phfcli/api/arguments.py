"""From the arguments of a call to settings, and errors of a call about its arguments."""

import builtins
import errno
import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from logging import ERROR, getLogger
from numbers import Number
from os import PathLike
from pathlib import Path
from sys import modules
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from phfcli.core.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from phfcli.core.config import EvalConfig, GradeConfig, TrainConfig
    from phfcli.core.settings import Source

    GivenRows = Dataset | pd.DataFrame | Sequence[Mapping[str, Any]]  # in the place of a file

# dotted keys of the arguments of `train`, and of the options of `phf train`, that are not named like their setting
KEYS = {
    "alpha": "flow.alpha",
    "teacher": "teacher.kind",
    "engine": "rollout.engine",
    "eval_every": "evaluation.every",
    "eval_bench": "evaluation.bench",
    "patience": "evaluation.patience",
}

_ROWS_FOLDER = Path("runs") / "data"

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
    """Lets a call refuse an argument that it does not have with the nearest one, and a value of a wrong type."""

    @wraps(call)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        getLogger("bitsandbytes").setLevel(ERROR)  # it logs a line whenever a library imports it
        parameters = signature(call).parameters
        for name in kwargs:
            if name not in parameters:
                hint = nearest(name, parameters)
                setting = "a setting that is no argument goes into config, as in config={'optim.lr': 1e-5}"
                raise TypeError(f"{call.__name__}() has no argument {name!r}; {hint}; {setting}")
        try:
            given = signature(call).bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{call.__name__}(): {error}") from None
        for name, value in given.items():
            if parameters[name].kind is Parameter.VAR_POSITIONAL:
                for each in value:
                    _check(call, name, each)
            elif name not in ("self", "cls") and value is not parameters[name].default:
                _check(call, name, value)
        try:
            with answering_other_names():
                return call(*args, **kwargs)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError(f"{call.__name__}(): {error.filename!r:.40}: the name is too long") from None
        except RecursionError:
            raise UserError(f"{call.__name__}(): an argument contains itself, or is nested too deeply") from None

    return checked


def _check(call: Callable[..., Any], name: str, value: Any) -> None:
    """Raises UserError, naming the argument, for a value that its annotation excludes."""
    if isinstance(value, str | PathLike) and "\0" in str(value):
        raise UserError(f"{name}: {call.__name__}() got {str(value)!r:.60}, which holds a NUL character")
    annotation = call.__annotations__.get(name, Any)
    try:
        known = _Names(vars(modules[call.__module__]))
        hint = eval(annotation, {}, known) if isinstance(annotation, str) else annotation
    except (AttributeError, TypeError):  # of a library that is not imported for an annotation
        return
    if not _fits(value, hint):
        given = f"{reprlib.repr(value)}, of type {type(value).__name__}"
        wanted = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
        listed = f"; in a list: write [{value!r}]" if isinstance(value, str) and _fits([value], hint) else ""
        raise UserError(f"{name}: {call.__name__}() takes {wanted}, and got {given}{listed}")


class _Names(dict[str, Any]):
    """The names that annotations of this package use and that are not imported for them."""

    def __missing__(self, name: str) -> Any:
        if name in builtins.__dict__:
            raise KeyError(name)
        from phfcli.core import config

        places = [vars(modules[place]) for place in ("phfcli.api.results", "phfcli.api.findings") if place in modules]
        return next((place[name] for place in (*places, vars(config)) if name in place), Any)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may stand for a type hint. Numbers are checked where they are settings, by their own limits."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if kind is Literal:
        return any(value is each or value == each for each in inner)
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return isinstance(value, Number | str) or hasattr(value, "__index__")
    if hint is Path:
        return isinstance(value, PathLike)
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return (
            isinstance(value, Iterable)
            and not isinstance(value, str | bytes | Mapping)
            and (not isinstance(value, Collection) or all(_fits(each, inner[0]) for each in value))
        )
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(_fits(each, inner[1]) for each in value.values())
    if kind is Callable:
        return callable(value)
    kind = kind or hint
    return not isinstance(kind, type) or kind is Any or isinstance(value, kind)


def sources_of(
    config: "str | Path | Mapping[str, Any] | TrainConfig | EvalConfig | GradeConfig | Sequence[Any]",
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


def data_name(argument: str, given: Any) -> Any:
    """The name of a data set, or the file to which rows given in Python are written; None as it is.

    The file, runs/data/rows-SHA256.jsonl, has the hash of its content in its name. A run that reads it is recorded and
    resumed like one whose data was a file from the start.

    Args:
        argument: the name of the argument, for errors.
        given: a name or a path; or rows: a DataFrame, a Dataset, or a sequence of mappings.
    """
    rows = _rows_of(argument, given)
    if rows is None:
        return given
    if not rows:
        raise UserError(f"{argument}: has no rows")
    from phfcli.core.storage.files import write_data

    text = "".join(json.dumps(_plain(argument, row)) + "\n" for row in rows)
    file = (_ROWS_FOLDER / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl").resolve()
    if not file.exists():
        write_data(file, text)
    return str(file)


def is_rows(given: Any) -> bool:
    """Whether an argument holds rows, not names."""
    return _rows_of("data", given) is not None


def _rows_of(argument: str, given: Any) -> list[Mapping[str, Any]] | None:
    """The rows of a DataFrame, a Dataset or a sequence of mappings; None for anything else."""
    if hasattr(given, "column_names") and hasattr(given, "to_list"):
        return list(given.to_list())
    if hasattr(given, "columns") and hasattr(given, "to_dict"):
        return list(given.to_dict("records"))
    if isinstance(given, Mapping):  # a DatasetDict too
        raise UserError(
            f'{argument}: is a mapping of {", ".join(map(str, given))}; give one table, such as its "train"'
        )
    if isinstance(given, Sequence) and not isinstance(given, str) and given and isinstance(given[0], Mapping):
        return list(given)
    return None


def _plain(argument: str, value: Any) -> Any:
    """A row, or what one holds, as JSON has it: numpy's scalars and arrays as numbers and lists, NaN as null.

    Raises:
        UserError: for a value that JSON does not have.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(key): _plain(argument, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(argument, item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    raise UserError(
        f"{argument}: a cell holds {type(value).__name__} {value!r:.40}; text, numbers and lists can be read"
    )


def _sources_of(part: Any) -> "list[Source]":
    from phfcli.core.config import EvalConfig
    from phfcli.core.settings import Source, file_sources, option_source

    if isinstance(part, str | Path):
        return file_sources([str(part)])
    if isinstance(part, Mapping):
        return [option_source(str(key), str(key), value) for key, value in part.items()]
    if hasattr(part, "model_dump"):
        # an evaluation takes what is not set from the training run
        return [Source("config", part.model_dump(exclude_unset=isinstance(part, EvalConfig)))]
    raise UserError(f"config: {part!r} is no recipe, file, mapping or config")
