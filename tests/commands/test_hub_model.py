"""A model by its hub id: the real loading code, on a cache of the form in which the hub's client leaves it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phfcli.core.shipped_files import embedded_model

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """HF_HOME with the embedded model as someone/tiny."""
    repository = tmp_path / "hf" / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    shutil.copytree(embedded_model(), repository / "snapshots" / REVISION)
    return tmp_path / "hf"


def phf(folder: Path, cache: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: the client reads its settings when it is imported."""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "phfcli", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_hub_id_is_evaluated_and_recorded_with_its_revision(cache: Path, tmp_path: Path) -> None:
    few = ("--limit", "2", "--n", "1", "--engine", "transformers", "--json")
    done = phf(tmp_path, cache, "eval", "someone/tiny", *few)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / json.loads(done.stdout)["benches"][0]["folder"]
    assert json.loads((folder / "settings.json").read_text())["model"] == {"name": "someone/tiny", "revision": REVISION}


@pytest.mark.slow
def test_a_hub_id_that_is_not_there_is_one_line(cache: Path, tmp_path: Path) -> None:
    done = phf(tmp_path, cache, "eval", "someone/else")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "someone/else: no such folder, and the hub cannot be reached" in done.stderr
