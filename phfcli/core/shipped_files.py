"""Finds the shipped files: embedded model, problems, recipes. In a checkout they lie beside the package."""

import re
from functools import cache
from pathlib import Path

from phfcli.core.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]

EMBEDDED = "embedded"


def _folder(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def embedded_model() -> Path:
    return _folder("data") / "model"


def embedded_problems(split: str) -> Path:
    """The jsonl file of a split of the embedded problems: train, dev or eval."""
    return _folder("data") / f"{split}.jsonl"


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(_folder("recipes").glob("*.yaml"), key=lambda path: path.stem)}


@cache
def objectives() -> tuple[str, ...]:
    """The objectives that come with phf: each has a recipe of its name. No torch is loaded, so help can list them."""
    named = re.compile(r"^objective: ([\w-]+)", re.MULTILINE)
    found = {name: named.search(path.read_text(encoding="utf-8")) for name, path in recipes().items()}
    return tuple(name for name, match in found.items() if match and match[1] == name)


def find_recipe(name_or_path: str) -> Path:
    """A recipe's file, by its name or its path. Raises UserError if there is none."""
    known = recipes()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise UserError(f"config: {name_or_path}: neither a file nor a shipped recipe; {nearest(name_or_path, known)}")
