"""What README and the pages say: their code runs, their commands exist, their files are there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import phf

from phfcli.core.models.passes import Batch, Pass

__all__ = ["phf"]

Phf = Callable[..., Any]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_OTHERS = ("LOG", "STUDY")  # dated entries and results
PAGES = [page for page in [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md")] if not page.stem.startswith(_OTHERS)]
PAGES = [ROOT / "README.md", *sorted(PAGES)]
MOST_LINES = 120  # of README
_FENCE = re.compile(r"(?:<!-- (gpu|not run|run by \S+) -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ELSEWHERE = ("run by", "not run")
_COMMANDS = (
    "train|eval|collect|diagnose|compare|report|export|verify|grade|runs|watch|push|probe|doctor|study"
    "|config \\w+|bridge fit"
)
_RUNS = ("first", "phf", "own", "phf-qwen3-4b-seed0")  # that pages name and do not make


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """The code blocks of a page, each with its mark: nothing, "gpu", "run by" what runs it, or "not run"."""
    for mark, kind, code in _FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == language and "--8<--" not in code:
            yield mark, code


def pages_with(language: str) -> list[Any]:
    """The pages that have something to run, as parameters of a test."""
    found = [page for page in PAGES if any(not mark.startswith(_ELSEWHERE) for mark, _ in blocks(page, language))]
    return [pytest.param(page, id=name_of(page)) for page in found]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, evaluated_run: Path) -> Path:
    """What the pages take for granted: files of problems, the evaluated base, and runs, which are all one short run."""
    place = tmp_path_factory.mktemp("workplace")
    rows = [json.loads(line) for line in (ROOT / "data" / "train.jsonl").read_text().splitlines()[:58]]
    everything = pd.DataFrame(rows)[["problem", "solution", "answer"]]
    own = everything.rename(columns={"problem": "question", "solution": "worked", "answer": "result"})
    problems = everything[:8]
    for name, table in {"problems": problems, "test": problems, "train": problems, "all": own}.items():
        table.to_json(place / f"{name}.jsonl", orient="records", lines=True)
    own.to_csv(place / "all.csv", index=False)
    problems.to_parquet(place / "problems.parquet")
    shutil.copytree(ROOT / "studies", place / "studies")
    shutil.copytree(evaluated_run, place / "runs" / "first", ignore=shutil.ignore_patterns("evals"))
    small = ("--limit", "4", "--n", "2", "--engine", "transformers", "--quiet")
    for words in (
        ("eval", "runs/first", *small),
        ("eval", "embedded", *small, "--output-dir", "runs/base"),
    ):
        subprocess.run([sys.executable, "-m", "phfcli", *words], cwd=place, check=True, capture_output=True)
    for name in _RUNS[1:]:
        shutil.copytree(place / "runs" / "first", place / "runs" / name)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run(page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for _, code in blocks(page, "python"):
        namespace: dict[str, Any] = {}
        exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", pages_with("bash"))
def test_command_lines_run(
    page: Path, phf: Phf, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those for GPUs with --dry-run, and all without network: what is not on this machine is named as a gap."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    run = "".join(code for mark, code in blocks(page, "bash") if mark != "gpu")
    for made in re.findall(r"--output-dir (\S+)", run):
        shutil.rmtree(tmp_path / made, ignore_errors=True)
    for mark, code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines() if not mark.startswith(_ELSEWHERE) else []:
            words = shlex.split(line, comments=True)
            if words[0] == "make":
                subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
                continue
            if words[0] not in ("phf", "torchrun"):
                subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
                continue
            ours = words[words.index("phfcli") + 1 :] if words[0] == "torchrun" else words[1:]
            done = phf(*ours, *(["--dry-run"] if mark == "gpu" and "--dry-run" not in ours else []))
            assert done.code == 0, f"{line}\n{done.err}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_line_of_code_is_in_a_block_that_something_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert (
        re.findall(r"^ {4,}\S.*", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE) == []
    )
    for mark, code in blocks(page, "bash"):
        if mark.startswith("run by"):
            runner = (ROOT / mark.removeprefix("run by ")).read_text(encoding="utf-8")
            assert [word for word in subjects_of(code) if word not in runner] == [], mark


def subjects_of(code: str) -> list[str]:
    """What whoever runs some command lines must at least name: our commands and their options, and files to deploy."""
    ours = [line.partition(" #")[0] for line in code.splitlines() if line.startswith("phf ")]
    named = [word for line in ours for word in re.findall(rf"phf (?:{_COMMANDS})\b|(?<!\S)--[a-z-]+", line)]
    commands = [word.removeprefix("phf ").split()[0] for word in named if word not in ("--config", "--set")]
    return [*commands, *re.findall(r"deploy/(\S+)", code)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_are_to_be_installed_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r'"\.\[(\w+)\]"', page.read_text(encoding="utf-8"))) <= set(extras)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_linked_files_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)h#][^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    made = {"reference/extensions.md", "settings.md", "commands.md", "recipes.md"}  # by the site's own hook
    assert [link for link in links if link not in made and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    used: dict[str, set[str]] = {}
    for command, rest in re.findall(rf"phf ({_COMMANDS})\b([^\n|`#]*)", text):
        used.setdefault(command, set()).update(re.findall(r"(?<!\S)--[a-z-]+", rest))
    for command, options in used.items():
        assert options <= options_of(command), command


@cache
def options_of(command: str) -> set[str]:
    """The options that the help of a command has."""
    run = [sys.executable, "-m", "phfcli", *command.split(), "--help"]
    told = subprocess.run(run, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    return set(re.findall(r"--[a-z-]+", told.stdout))


@pytest.mark.parametrize(("kind", "title"), [(Pass, "field of a pass"), (Batch, "field of the batch")])
def test_the_table_of_what_a_loss_receives_is_whole(kind: type, title: str) -> None:
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    rows = text.split(f"| {title} |")[1].split("\n\n")[0]
    named = [name for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    computed = [name for name, value in vars(kind).items() if isinstance(value, property | cached_property)]
    assert sorted(named) == sorted([*(field.name for field in fields(kind)), *computed])
