"""The names of the parts of a run directory."""

import re
from pathlib import Path

_STEP = re.compile(r"step-(\d{6,})")


def is_run(folder: Path) -> bool:
    """Whether a folder is the directory of a training run."""
    return (folder / "config.yaml").is_file()


def step_name(step: int) -> str:
    """How a step is written in the names of files and folders."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step that a name made by `step_name` stands for; None for another name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def evaluation_folder(run: Path, step: int | None, name: str) -> Path:
    """evals/step-000100/NAME of a checkpoint, evals/NAME of a model that has no steps."""
    return run / "evals" / name if step is None else run / "evals" / step_name(step) / name


def evaluation_files(run: Path, name: str) -> list[Path]:
    """The files of that name in all evaluations of a run, those of older layouts among them."""
    return sorted([*run.glob(f"evals/*/{name}"), *run.glob(f"evals/step-*/*/{name}")])


def run_name(evaluation: Path) -> str | None:
    """What a run or an evaluated model is called in every table, picture and page: the name of its folder.

    evaluation: the folder of one of its evaluations. None for one that stands alone, outside of such a folder.
    """
    run = run_of_evaluation(evaluation)
    return None if run == evaluation else run.resolve().name


def run_of_evaluation(folder: Path) -> Path:
    """The run that an evaluation's folder belongs to; the folder itself where it stands alone."""
    above = folder.parents[1] if step_of(folder.parent.name) is not None else folder.parent
    return above.parent if above.name == "evals" else folder
