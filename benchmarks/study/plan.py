"""What a study trains and evaluates, as data, and where a run of it lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator

from phfcli.core.config import EngineName, Section
from phfcli.core.names import OBJECTIVES
from phfcli.core.runs.layout import evaluation_folder
from phfcli.core.settings import Source, read_yaml, resolve


class System(Section):
    """One row: its name in the tables, and the options of `phf train` that make it."""

    title: str
    options: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether this version of phf has the objective."""
        return self.options[self.options.index("--objective") + 1] in OBJECTIVES


class Study(Section):
    title: str
    folder: str
    model: str
    bench: str
    seeds: PositiveInt
    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    samples: PositiveInt
    engine: EngineName
    baseline: str
    systems: dict[str, System]
    options: tuple[str, ...] = ()  # of every training run
    shows: str  # what the numbers can and cannot say

    @field_validator("steps")
    @classmethod
    def _checkpoints(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or any(step % steps[0] for step in steps):
            raise ValueError("must be rising multiples of the first, which is the distance of checkpoints")
        return steps


@dataclass(frozen=True)
class StudyRun:
    """One system under one seed; `system` is None for the base model itself."""

    study: Study
    system: str | None
    seed: int

    @property
    def folder(self) -> Path:
        return Path(self.study.folder) / f"{self.system or 'base'}-seed{self.seed}"

    @property
    def steps(self) -> tuple[int, ...]:
        return (0,) if self.system is None else self.study.steps

    def summary(self, step: int) -> Path:
        """The file of the evaluation after a step; step 0 is the base model."""
        name = f"{Path(self.study.bench).stem}-n{self.study.samples}"
        return evaluation_folder(self.folder, step or None, name) / "summary.json"

    @property
    def finished(self) -> bool:
        return all(self.summary(step).is_file() for step in self.steps)


def load_study(path: Path) -> Study:
    """Raises UserError for a file that is no study."""
    return resolve(Study, [Source(str(path), read_yaml(path))])


def runs_of(study: Study) -> list[StudyRun]:
    """All runs, one seed of every system after the other, so that a stopped study has whole seeds."""
    names = [None, *(name for name, system in study.systems.items() if system.known)]
    return [StudyRun(study, name, seed) for seed in range(study.seeds) for name in names]
