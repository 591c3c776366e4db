"""The names of the parts of a run directory."""

from pathlib import Path


def is_run(folder: Path) -> bool:
    """Whether a folder is the directory of a training run."""
    return (folder / "config.yaml").is_file()


def step_name(step: int) -> str:
    """How a step is written in the names of files and folders."""
    return f"step-{step:06d}"
