"""Plugins: objectives, teachers, engines, benchmarks, graders and trackers of other packages, each under a name.

A program registers them; an installed package names them in its entry points, which are loaded when a plugin is asked
for by name. docs/extending.md describes the interface of each kind.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, get_args

from phfcli.core.errors import UserError, first_line, nearest

if TYPE_CHECKING:
    from pydantic import ValidationInfo

RECORDED = "recorded"  # pydantic's validation context of settings that are only read back
Kind = Literal["objectives", "teachers", "engines", "benchmarks", "graders", "trackers"]

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
        UserError: where an installed package names it and it cannot be loaded.
    """
    if name not in _registered[kind]:
        for entry in entry_points(group=f"phfcli.{kind}", name=name):
            try:
                _registered[kind][name] = entry.load()
            except Exception as error:
                raise UserError(f"{name}: {entry.value} cannot be loaded: {first_line(error)}") from error
    return _registered[kind].get(name)


def code_of(named: Iterable[tuple[Kind, str]]) -> dict[str, str]:
    """A sha256 of the code of each plugin among these names, as "objective NAME".

    It is that of the plugin's file; of one that the running program itself defines only its own lines. A plugin whose
    code lies in no file has none.
    """
    codes = {}
    for kind, name in named:
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

    def check(name: str, info: "ValidationInfo") -> str:
        if name in builtins or info.context == RECORDED or name in (plugins := names(kind)):
            return name
        raise ValueError(f"{name!r} is unknown; {nearest(name, [*builtins, *plugins])}{more}")

    return check
