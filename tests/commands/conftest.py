"""The command line as a fixture, and a short run that it has made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import phf

__all__ = ["phf"]


@pytest.fixture
def run(phf: Callable[..., Any], tmp_path: Path) -> Path:
    options = ("--set", "batch_size=4", "--quiet")
    phf("train", "--steps", 2, "--checkpoint-every", 1, "--output-dir", "run", *options)
    return tmp_path / "run"
