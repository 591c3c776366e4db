"""Plugins: objectives, teachers, engines, benchmarks, graders and trackers that do not come with phf, each by its name.

A program registers them; an installed package names them in its entry points, which are loaded when a plugin is asked
for by name; FILE.py:NAME is one in a file. docs/extending.md describes the interface of each kind.
"""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from phfcli.core.errors import UserError, first_line, nearest

if TYPE_CHECKING:
    from pydantic import ValidationInfo

RECORDED = "recorded"  # pydantic's validation context of settings that are only read back
Kind = Literal["objectives", "teachers", "engines", "benchmarks", "graders", "trackers"]

_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)", re.DOTALL)
_FROM_FILES: tuple[Kind, ...] = ("objectives", "benchmarks", "graders")  # may be FILE.py:NAME
_trusted: set[str] = set()  # FILE.py:NAME with an absolute path, whose code may be run

_registered: dict[Kind, dict[str, Any]] = {kind: {} for kind in get_args(Kind)}


def register(kind: Kind, name: str, plugin: Any, taken: Iterable[str] = ()) -> None:
    """Adds a plugin under a name, in place of an earlier one of that name.

    taken: the built-in names of that kind, which a plugin must not have.
    """
    if name in taken:
        raise UserError(f"{name}: one of phf's own {kind} has this name; choose another")
    _registered[kind][name] = plugin


def names(kind: Kind) -> list[str]:
    """The names of all plugins of a kind, those of installed packages included."""
    return sorted({*_registered[kind], *entry_points(group=f"phfcli.{kind}").names})


def find(kind: Kind, name: str) -> Any | None:
    """The plugin of a name, or None.

    Raises:
        UserError: where an installed package names it and it cannot be loaded, or for code in a file that nobody has
            asked to run.
    """
    if _in_file(kind, name):
        name = anchored(name)
        if name not in _registered[kind]:
            _registered[kind][name] = _load(kind, name)
    elif name not in _registered[kind]:
        for entry in entry_points(group=f"phfcli.{kind}", name=name):
            try:
                _registered[kind][name] = entry.load()
            except Exception as error:
                raise UserError(f"{name}: {entry.value} cannot be loaded: {first_line(error)}") from error
    return _registered[kind].get(name)


def conforming(kind: Kind, name: str, given: Any, interface: Any) -> Any:
    """What a plugin has given, where it has the members of a runtime-checkable protocol.

    Raises:
        UserError: where it lacks one.
    """
    if not isinstance(given, interface):
        raise UserError(
            f"{kind.removesuffix('s')} {name}: gives {type(given).__name__}, which is no {interface.__name__}; "
            "docs/extending.md has what it has to give"
        )
    return given


def _in_file(kind: Kind, name: str) -> re.Match[str] | None:
    """The parts of FILE.py:NAME, of a kind that may be in a file; None for any other name."""
    return _IN_FILE.fullmatch(name) if kind in _FROM_FILES else None


def in_file(name: str) -> bool:
    """Whether a name is FILE.py:NAME."""
    return _IN_FILE.fullmatch(name) is not None


def anchored(name: str) -> str:
    """FILE.py:NAME with the absolute path of its file; any other name as it is."""
    match = _IN_FILE.fullmatch(name)
    return f"{Path(match['file']).resolve()}:{match['name']}" if match else name


def short_name(name: str) -> str:
    """A name for folders and tables: FILE-NAME for FILE.py:NAME; any other name as it is."""
    match = _IN_FILE.fullmatch(name)
    return f"{Path(match['file']).stem}-{match['name']}" if match else name


def trust(values: Iterable[object]) -> None:
    """Lets the code of every FILE.py:NAME among some values of settings be run.

    It is for values that somebody has typed, written in Python, or put into a file which they name by its path. Code
    that only a record or a recipe names is never run.
    """
    for value in values:
        if isinstance(value, list | tuple):
            trust(value)
        elif isinstance(value, str) and _IN_FILE.fullmatch(value):
            _trusted.add(anchored(value))


def trust_unchanged(named: Iterable[tuple[Kind, str]], recorded: Mapping[str, str], folder: Path) -> None:
    """Lets a run go on with the code in files that it began with, where each file still has the recorded hash.

    folder: the run's; a file inside it may have come with the record, so its code is not run.
    """
    for kind, name in named:
        match = _IN_FILE.fullmatch(name)
        if match and not Path(match["file"]).resolve().is_relative_to(folder.resolve()):
            label = f"{kind.removesuffix('s')} {name}"
            if recorded.get(label) == _file_hash(Path(match["file"])):
                _trusted.add(anchored(name))


def _file_hash(file: Path) -> str | None:
    """The sha256 of a file; None where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _load(kind: Kind, name: str) -> Any:
    """The object that FILE.py:NAME names. Runs the file."""
    match = _IN_FILE.fullmatch(name)
    assert match is not None
    file, wanted = Path(match["file"]), match["name"]
    label = f"{kind.removesuffix('s')} {name}"
    if name not in _trusted:
        raise UserError(
            f"{label}: is code that only a record names, or that has changed since; name it yourself to run it"
        )
    if not file.is_file():
        raise UserError(f"{label}: there is no such file")
    spec = importlib.util.spec_from_file_location(
        f"phf_own_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}", file
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name) or importlib.util.module_from_spec(spec)
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module  # before it runs: dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[spec.name]
            if not isinstance(error, Exception):
                raise
            raise UserError(f"{label}: cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    if not hasattr(module, wanted):
        raise UserError(f"{label}: the file defines no such name; {nearest(wanted, _public(module))}")
    return getattr(module, wanted)


def _public(module: object) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def code_of(named: Iterable[tuple[Kind, str]]) -> dict[str, str]:
    """A sha256 of the code of each plugin among these names, as "objective NAME".

    It is that of the plugin's file; of one that the running program itself defines only its own lines. A plugin whose
    code lies in no file has none.
    """
    codes = {}
    for kind, name in named:
        if match := _in_file(kind, name):
            if sha256 := _file_hash(Path(match["file"])):
                codes[f"{kind.removesuffix('s')} {name}"] = sha256
            continue
        if (plugin := find(kind, name)) is None:
            continue
        built = getattr(plugin, "rows", getattr(plugin, "func", plugin))  # of a benchmark, of functools.partial
        own = built if inspect.isfunction(built) or inspect.isclass(built) else type(built)
        with suppress(OSError, TypeError):
            lines = inspect.getsource(own if own.__module__ == "__main__" else sys.modules[own.__module__])
            codes[f"{kind.removesuffix('s')} {name}"] = hashlib.sha256(lines.encode()).hexdigest()
    return codes


def owner(module: str) -> str | None:
    """The plugin that comes from the package of a module, as "objective NAME"; None where there is none."""
    for kind, plugins in _registered.items():
        for name, plugin in plugins.items():
            built = getattr(plugin, "func", plugin)  # functools.partial has no module of its own
            package = str(getattr(built, "__module__", "")).partition(".")[0]
            if package == module.partition(".")[0] != "phfcli":
                return f"{kind.removesuffix('s')} {name}"
    return None


def known(kind: Kind, builtin: Iterable[str], more: str = "") -> Callable[[str, "ValidationInfo"], str]:
    """A validator of names: built-in ones and plugins are valid; `more` ends the error with what else is.

    Settings that are only read back (RECORDED) may name a plugin of a program that is not running now.
    """
    builtins = tuple(builtin)
    more = f", or FILE.py:NAME{more}" if kind in _FROM_FILES else more

    def check(name: str, info: "ValidationInfo") -> str:
        if match := _in_file(kind, name):
            if info.context != RECORDED and not Path(match["file"]).is_file():
                raise ValueError(f"{name!r}: there is no file {match['file']}")
            return anchored(name)
        if name in builtins or info.context == RECORDED or name in (plugins := names(kind)):
            return name
        raise ValueError(f"{name!r} is unknown; {nearest(name, [*builtins, *plugins])}{more}")

    return check
