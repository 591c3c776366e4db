"""The command line as a fixture, and a short run that it has made."""

import shutil
import sys
from pathlib import Path

import pytest
from command_line import phf

from phfcli.cli import main

__all__ = ["phf"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training, made once."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = ["--steps", "2", "--checkpoint-every", "1", "--set", "batch_size=4", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["phf", "train", "--output-dir", str(folder), *options])
        with pytest.raises(SystemExit):
            main()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))
