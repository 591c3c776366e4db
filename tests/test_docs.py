"""What README and the guides say: their code runs, their commands exist, their files are there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.models.passes import Batch, Pass

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("index.md", "method.md", "extending.md"))]
PAGES += sorted((ROOT / "docs" / "guides").glob("*.md"))
MOST_LINES = 120  # of README
_FENCE = re.compile(r"(?:<!-- (gpu|not run) -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
_COMMANDS = "train|eval|diagnose|compare|report|export|verify|grade|runs|watch|push|config \\w+|bridge fit"

page_ids = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """The code blocks of a page, each with its mark: nothing, "gpu" or "not run"."""
    for mark, kind, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == language and "--8<--" not in code:
            yield mark, code


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _, code in blocks(page, "python"):
        namespace: dict[str, Any] = {}
        exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_command_lines_run(page: Path, tmp_path: Path) -> None:
    """Those for GPUs with --dry-run, and all without network: what is not on this machine is named as a gap."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    for mark, code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines() if mark != "not run" else []:
            words = shlex.split(line, comments=True)
            command = [sys.executable, "-m", "phfcli", *words[1:], *(["--dry-run"] if mark == "gpu" else [])]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
            assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize(("kind", "title"), [(Pass, "field of a pass"), (Batch, "field of the batch")])
def test_the_table_of_what_a_loss_receives_is_whole(kind: type, title: str) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    rows = text.split(f"| {title} |")[1].split("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    computed = [name for name, value in vars(kind).items() if isinstance(value, property | cached_property)]
    assert sorted(named) == sorted([*(field.name for field in fields(kind)), *computed])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_linked_files_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)h#][^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    made = {"reference/extensions.md", "settings.md", "commands.md"}  # by the site's own hook
    assert [link for link in links if link not in made and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    used: dict[str, set[str]] = {}
    for command, rest in re.findall(rf"phf ({_COMMANDS})\b([^\n|`#]*)", text):
        used.setdefault(command, set()).update(re.findall(r"(?<!\S)--[a-z-]+", rest))
    for command, options in used.items():
        run = [sys.executable, "-m", "phfcli", *command.split(), "--help"]
        told = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
        assert options <= set(re.findall(r"--[a-z-]+", told.stdout))
