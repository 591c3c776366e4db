"""What other packages add: objectives, teachers, engines, benchmarks, graders and trackers, each under a name.

A program registers them; an installed package names them in its entry points, which are loaded when the name is asked
for. What each has to do is said in docs/extending.md.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, get_args

from phfcli.core.errors import UserError, first_line, nearest

if TYPE_CHECKING:
    from pydantic import ValidationInfo

RECORDED = "recorded"  # as the context of a validation
Kind = Literal["objectives", "teachers", "engines", "benchmarks", "graders", "trackers"]

_registered: dict[Kind, dict[str, Any]] = {kind: {} for kind in get_args(Kind)}


def register(kind: Kind, name: str, thing: Any, taken: Iterable[str] = ()) -> None:
    """Adds a thing under a name; a later one of that name takes its place.

    taken: the names of our own of that kind, which cannot be taken.
    """
    if name in taken:
        raise UserError(f"{name}: one of phf's own {kind} has this name; choose another")
    _registered[kind][name] = thing


def names(kind: Kind) -> list[str]:
    """The names that have been added, those of installed packages among them."""
    return sorted({*_registered[kind], *entry_points(group=f"phfcli.{kind}").names})


def find(kind: Kind, name: str) -> Any | None:
    """What was added under a name, or None.

    Raises:
        UserError: where an installed package names it and cannot be loaded.
    """
    if name not in _registered[kind]:
        for entry in entry_points(group=f"phfcli.{kind}", name=name):
            try:
                _registered[kind][name] = entry.load()
            except Exception as error:
                raise UserError(f"{name}: {entry.value} cannot be loaded: {first_line(error)}") from error
    return _registered[kind].get(name)


def owner(module: str) -> str | None:
    """What was added from the package of a module, as "objective NAME"; None for a module of another package."""
    for kind, things in _registered.items():
        for name, thing in things.items():
            built = getattr(thing, "func", thing)  # of a partial
            package = str(getattr(built, "__module__", "")).partition(".")[0]
            if package == module.partition(".")[0] != "phfcli":
                return f"{kind.removesuffix('s')} {name}"
    return None


def known(kind: Kind, own: Iterable[str], more: str = "") -> Callable[[str, "ValidationInfo"], str]:
    """A check that a name is one of our own, or was added; `more` says what else it may be.

    Settings that are only read back (RECORDED) may name what a program had registered that is not running now.
    """
    ours = tuple(own)

    def check(name: str, info: "ValidationInfo") -> str:
        if name in ours or info.context == RECORDED or name in (added := names(kind)):
            return name
        raise ValueError(f"{name!r} is unknown; {nearest(name, [*ours, *added])}{more}")

    return check
