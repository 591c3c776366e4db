"""The core speaks of settings by their dotted keys; options are the command line's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import phfcli.core

CORE = Path(phfcli.core.__file__).parent
OPTION = re.compile(r"(?:^|[\s`'\"])--[a-z]")
ARGUMENT = re.compile(r"--[a-z-]+(=\S*)?")  # of a child process, such as "--json"


def texts(path: Path) -> Iterator[str]:
    """The string constants of a module, docstrings and messages among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not ARGUMENT.fullmatch(node.value):
            yield node.value


def test_no_text_of_the_core_names_an_option() -> None:
    """rollouts/ may: it says how a vLLM server is to be started."""
    modules = [path for path in CORE.rglob("*.py") if path.parent.name != "rollouts"]
    assert len(modules) > 100
    assert [(path.name, text) for path in modules for text in texts(path) if OPTION.search(text)] == []
