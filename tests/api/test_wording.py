"""What a Python call says names its arguments, never options of the command line."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import phfcli as phf
from phfcli.api.arguments import in_python

CORE = Path(phf.__file__).parent / "core"
# what a server, a launcher or `git` is given; commands that Python does not have
NOT_OURS = {
    *("runner", "pooler-config", "max-model-len", "enable-lora", "max-lora-rank", "generation-config"),
    *("logprobs-mode", "always", "dirty", "no-cache", "json"),
}
NOT_IN_PYTHON = ("doctor", "studies", "regrading", "probe", "readings")
NO_CALL = ("fit_bridge.py", "export.py", "push.py", "verify.py", "collect_flow.py", "inline_svg.py")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "--resume: a.b differs; go on with --resume, or with --force",
            "resume: a.b differs; go on with resume=True, or with force=True",
        ),
        ("x: leave them out with --set overlong=skip", "x: leave them out with config={'overlong': 'skip'}"),
        ("x: --set oprd.mu=null", "x: config={'oprd.mu': None}"),
        ("--engine vllm: its ranks", "engine='vllm': its ranks"),
        ("--n 1 says as much", "n=1 says as much"),
        (
            "train with --objective oprd --set oprd.bridge=FILE",
            "train with objective='oprd' config={'oprd.bridge': FILE}",
        ),
        ("--devices and --workers: not with a server", "devices and workers: not with a server"),
        ("make one with `phf collect runs/a`", "make one with `phf collect runs/a`"),
        ("start several, with --processes or torchrun", "start several, with `phf train --processes N` or torchrun"),
        ("choose another --output-dir", "choose another output_dir"),
    ],
)
def test_a_message_in_the_words_of_python(said: str, told: str) -> None:
    assert in_python(said) == told


def _whole(node: ast.AST) -> str:
    """A text of the program; what an f-string fills in is an X there. A part of one is no text of its own."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def texts() -> list[tuple[str, str]]:
    """Every text of core that has an option in it, docstrings left out, each with its file."""
    found = []
    for path in sorted(CORE.rglob("*.py")):
        if path.name in NO_CALL or any(part in NOT_IN_PYTHON for part in path.parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        docstrings = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        pieces = [_whole(node) for node in ast.walk(tree) if node not in parts]
        found += [(path.name, text) for text in pieces if text not in docstrings and re.search(r"--[a-z]{2}", text)]
    return found


def test_no_option_of_a_command_is_left_in_what_python_says() -> None:
    left = [
        (file, text)
        for file, text in texts()
        for option in re.findall(r"(?<!`)--([a-z-]{2,})", re.sub("`[^`]*`", "", in_python(text)))
        if option not in NOT_OURS and not text.startswith("--set X")  # the label of a pair that is typed
    ]
    assert left == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: phf.train(output_dir=run, steps=1), "resume=True, or choose another output_dir"),
        (lambda _: phf.train(patience=2), "patience: there is nothing to wait for without eval_every"),
        (lambda run: list(phf.training(output_dir=run)), "resume=True, or choose another output_dir"),
        (lambda _: phf.evaluate("embedded", base="embedded"), "base: embedded is not an adapter"),
        (lambda _: phf.evaluate("embedded", engine="vllmm"), "engine: 'vllmm'"),
    ],
)
def test_errors_name_arguments(call: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("objective: phf\n")
    with pytest.raises(phf.UserError) as caught:
        call(run)
    assert words in str(caught.value)
    assert "--" not in str(caught.value)
