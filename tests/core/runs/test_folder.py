"""What is recorded of the program that made a run."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from phfcli.core.runs import folder as provenance
from phfcli.core.runs.folder import environment

CHECKOUT = Path(provenance.__file__).parents[3]


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="this is no checkout")
def test_the_revision_of_the_checkout_is_recorded() -> None:
    head = subprocess.run(["git", "-C", str(CHECKOUT), "describe", "--always"], capture_output=True, text=True).stdout
    assert str(environment(torch.device("cpu"))["git"]).startswith(head.strip())


def test_a_machine_without_git_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    assert environment(torch.device("cpu"))["git"] is None


def test_an_installed_package_does_not_take_the_revision_of_the_project_around_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    installed = tmp_path / ".venv" / "site-packages" / "phfcli" / "core" / "runs" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert environment(torch.device("cpu"))["git"] is None
