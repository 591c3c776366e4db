"""The core speaks of settings by their dotted keys; options are the command line's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import phfcli.core
from phfcli.core.errors import masked, nearest

CORE = Path(phfcli.core.__file__).parent
OPTION = re.compile(r"(?:^|[\s`'\"])--[a-z]")
ARGUMENT = re.compile(r"--[a-z-]+(=\S*)?")  # of a child process, such as "--json"


def texts(path: Path) -> Iterator[str]:
    """The string constants of a module, docstrings and messages among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not ARGUMENT.fullmatch(node.value):
            yield node.value


def test_no_text_of_the_core_names_an_option() -> None:
    """rollouts/ and the model card may: they say how a vLLM server is to be started."""
    modules = [path for path in CORE.rglob("*.py") if path.parent.name != "rollouts" and path.name != "model_card.py"]
    assert len(modules) > 100
    assert [(path.name, text) for path in modules for text in texts(path) if OPTION.search(text)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host:80/v1 fails", "http://***@host:80/v1 fails"),
        ("http:/me:hunter2@host and https://me:p@ss@host", "http:/***@host and https://***@host"),
        ("POST {'Authorization': 'Bearer abcdefgh'}", "POST {'Authorization': 'Bearer ***"),
        ("invalid token hf_AbCdEfGh", "invalid token ***"),
        ("sk-proj-12345678 is no key", "*** is no key"),
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2"),
        ("the answer is what-is-mine", "the answer is ***"),
        ("write to me@example.org", "write to me@example.org"),
        ("runs/phf-embedded-seed0: task-12345678", "runs/phf-embedded-seed0: task-12345678"),
    ],
)
def test_secrets_are_masked(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "what-is-mine")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    assert masked(text) == shown


def test_a_hint_names_what_there_is() -> None:
    assert nearest("opds", ["opd", "opsd"]) == "did you mean 'opsd'?"
    assert nearest("x", ["b", "a"]) == "choose from a, b"
    assert nearest("x", []) == "there is none to choose from"
