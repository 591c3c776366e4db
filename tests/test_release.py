"""What a release needs: one version everywhere, and its section of the changelog."""

import subprocess
import tomllib
from pathlib import Path

import yaml

from phfcli.core.version import __version__

ROOT = Path(__file__).parents[1]


def notes(version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / ".ci" / "release-notes", version], capture_output=True, text=True, check=False)


def test_the_notes_of_this_version_are_its_section_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    told = notes(__version__).stdout.strip()
    assert told.startswith("- ")
    assert "\n## " not in told
    assert told in changelog.split(f"## {__version__}")[1].split("\n## ")[0]


def test_a_version_without_a_section_is_not_released() -> None:
    done = notes("9.9.9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "9.9.9" in done.stderr


def test_one_version_is_told_everywhere() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_the_workflow_takes_the_notes() -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["release"]["steps"]
    assert any(".ci/release-notes" in step.get("run", "") for step in steps)
