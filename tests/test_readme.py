"""What the README says: its example runs, its files are there, its options exist."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["hidden"].grad.abs().sum() > 0
    assert namespace["student"].grad.abs().sum() > 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)h#][^)]*)\)", README))))
def test_linked_files_are_there(target: str) -> None:
    assert (Path(__file__).parents[1] / target).exists()


def test_options_of_the_readme_exist() -> None:
    calls = re.findall(r"phf (train|eval|diagnose|compare|report|export|bridge fit)([^\n|`]*)", README)
    used = {(command, option) for command, rest in calls for option in re.findall(r"(?<!\S)--[a-z-]+", rest)}
    for command in {command for command, _ in used}:
        run = [sys.executable, "-m", "phfcli", *command.split(), "--help"]
        text = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert {option for c, option in used if c == command} <= set(re.findall(r"--[a-z-]+", text))
