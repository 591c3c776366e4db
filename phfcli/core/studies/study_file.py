"""The YAML file of a study: its form, and the runs that follow from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, field_validator, model_validator

from phfcli.core.config import EvalConfig, Positive, Section
from phfcli.core.errors import UserError, nearest
from phfcli.core.extensions import trust
from phfcli.core.objectives.build import build_objective
from phfcli.core.runs.folder import step_name
from phfcli.core.settings import Source, Tree, file_sources, leaves, merged, read_yaml, resolve, resolve_train

BASE = "base"  # the system that stands for the model without training
# settings that the study decides itself: which of its keys does
_OF_TRAINING = {"seed": "seeds", "steps": "evaluated", "checkpoint_every": "evaluated", "output_dir": "folder"}
_OF_EVALUATION = {"seed": "seeds", "bench": "benches", "model": "models", "output_dir": "folder"}
Seeds = Annotated[int, Field(gt=0, le=1000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # used in the names of folders


class System(Section):
    """What is trained: an objective with its settings. It is a row of the page's tables."""

    title: str
    config: tuple[str, ...] = ()  # recipes or YAML files, which override those of the study
    set: Tree = Field(default={})  # settings of `phf train`
    family: Name | None = None  # the family whose learning rate is searched; None keeps the recipe's rate
    seeds: Seeds | None = None  # the number of seeds; None is the study's


class Search(Section):
    """The search of each family's learning rate: short runs of its first system, scored on a separate benchmark."""

    rates: Annotated[dict[Name, tuple[Positive, ...]], Field(min_length=1)]  # family -> learning rates to try
    steps: PositiveInt
    bench: str
    n: PositiveInt = 2


class Planned(Section):
    """A comparison that is asked before the first run: a system minus another one, on the first benchmark."""

    system: Name
    minus: Name

    @property
    def name(self) -> str:
        return f"{self.system} - {self.minus}"


class Study(Section):
    """The content of a study's file."""

    title: str
    question: str  # what the study asks, in a sentence or two
    limits: str  # what its results cannot show
    folder: str  # the folder of the runs
    records: str  # the folder of the records, which are committed with the code
    page: Annotated[str, Field(pattern=r"\.md$")]  # the Markdown file; a .json and a folder of pictures lie beside it
    models: Annotated[dict[Name, Tree], Field(min_length=1)]  # name -> settings of `phf train`: model, dtype, ...
    config: tuple[str, ...] = ()  # recipes or YAML files of every training run
    set: Tree = Field(default={})  # settings of every training run
    benches: Annotated[tuple[str, ...], Field(min_length=1)]
    eval: Tree = Field(default={})  # settings of `phf eval`
    evaluated: Annotated[
        tuple[PositiveInt, ...], Field(min_length=1)
    ]  # the steps to evaluate; training ends at the last
    baseline: Name
    seeds: Seeds
    processes: Annotated[int, Field(gt=0, le=1024)] = 1  # of one training run
    search: Search | None = None
    systems: Annotated[dict[Name, System], Field(min_length=1)]
    planned: tuple[Planned, ...] = ()  # each on the sampled average and on greedy; all else is exploratory

    @field_validator("evaluated")
    @classmethod
    def _are_checkpoints(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or any(step % steps[0] for step in steps):
            raise ValueError("must be rising multiples of the first, which is the distance of checkpoints")
        return steps

    @model_validator(mode="after")
    def _names_are_known(self) -> "Study":
        if self.baseline not in self.systems:
            raise ValueError(
                f"baseline: {self.baseline!r} is none of its systems; {nearest(self.baseline, self.systems)}"
            )
        if BASE in self.systems:
            raise ValueError(f"systems: {BASE!r} is the name of the model itself; use another one")
        for asked in self.planned:
            for name in (asked.system, asked.minus):
                if name not in self.systems:
                    raise ValueError(f"planned: {name!r} is none of the systems; {nearest(name, self.systems)}")
        names = [asked.name for asked in self.planned]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"planned: {twice!r} stands there twice")
        known = self.search.rates if self.search else {}
        for name, system in self.systems.items():
            if system.family is not None and system.family not in known:
                raise ValueError(f"systems.{name}.family: search.rates has no {system.family!r}")
        return self

    @model_validator(mode="after")
    def _decides_alone(self) -> "Study":
        """A setting that the study would overwrite is refused where it stands, rather than ignored."""
        given = {"set": self.set} | {f"models.{name}": tree for name, tree in self.models.items()}
        given |= {f"systems.{name}.set": system.set for name, system in self.systems.items()}
        for where, tree, decided in [
            *((w, t, _OF_TRAINING) for w, t in given.items()),
            ("eval", self.eval, _OF_EVALUATION),
        ]:
            for key in tree:
                if key in decided:
                    raise ValueError(f"{where}.{key}: the study decides this, by its {decided[key]!r}; leave it out")
        return self

    @model_validator(mode="after")
    def _tells_apart(self) -> "Study":
        """Rows of the page are known by their titles, and short runs of the search by their printed rates."""
        titles = [system.title for system in self.systems.values()]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise ValueError(f"systems: two have the title {twice!r}; give each its own")
        for family, rates in (self.search.rates if self.search else {}).items():
            printed = [f"{rate:g}" for rate in rates]
            if twice := next((rate for rate in printed if printed.count(rate) > 1), None):
                raise ValueError(f"search.rates.{family}: two rates print as {twice}; keep one")
        return self

    @property
    def steps(self) -> int:
        return self.evaluated[-1]

    @property
    def plan(self) -> list[str]:
        """The names of the planned comparisons, which each record keeps."""
        return [asked.name for asked in self.planned]


@dataclass(frozen=True)
class StudyRun:
    """One model trained by one system with one seed; the system BASE is the model without training.

    Attributes:
        rate: the learning rate that the search has chosen or tries; None is the recipe's.
        searching: whether this is a short run of the search.
    """

    study: Study
    model: str
    system: str
    seed: int = 0
    rate: float | None = None
    searching: bool = False

    @property
    def name(self) -> str:
        rate = f"-lr{self.rate:g}" if self.searching else ""
        return f"{self.model}/{'search-' if self.searching else ''}{self.system}{rate}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.study.folder) / self.name

    @property
    def record(self) -> Path:
        return Path(self.study.records) / f"{self.name}.json"

    @property
    def trains(self) -> bool:
        return self.system != BASE

    @property
    def evaluated(self) -> tuple[int, ...]:
        """The steps whose checkpoints are evaluated; 0 is the model without training."""
        if not self.trains:
            return (0,)
        return (self._search.steps,) if self.searching else self.study.evaluated

    @property
    def benches(self) -> tuple[str, ...]:
        return (self._search.bench,) if self.searching else self.study.benches

    def training(self) -> Tree:
        """The settings of `phf train`, as a tree."""
        study, system = self.study, self.study.systems[self.system]
        files = [source.tree for source in file_sources([*study.config, *system.config])]
        fixed: Tree = {"seed": self.seed, "steps": self.evaluated[-1], "checkpoint_every": self.evaluated[0]}
        rate = {"optim": {"lr": self.rate}} if self.rate else {}
        return merged([*files, study.models[self.model], study.set, system.set, fixed, rate])

    def evaluation(self) -> Tree:
        """The settings of `phf eval` without the model, as a tree."""
        model = self.study.models[self.model]
        shared: Tree = {key: model[key] for key in ("dtype", "device", "attention", "vllm", "http") if key in model}
        tree = merged([shared, self.study.eval]) | {"bench": list(self.benches), "seed": self.seed}
        return tree | ({"n": self._search.n} if self.searching else {})

    def target(self, step: int) -> str:
        """The TARGET of `phf eval` for a step."""
        if not self.trains:
            return str(self.study.models[self.model].get("model", "embedded"))
        return str(self.folder / "checkpoints" / step_name(step))

    @property
    def _search(self) -> Search:
        assert self.study.search is not None
        return self.study.search


def load_study(path: Path) -> Study:
    """Reads a study and validates the settings of every run.

    Raises:
        UserError: names the file and the key, for a file that is no study or an invalid setting.
    """
    tree = read_yaml(path)
    trust(leaves(tree).values())
    study = resolve(Study, [Source(str(path), tree)])
    for run in [*search_runs(study), *runs_of(study)]:
        if run.seed == 0:  # runs of other seeds have the same other settings
            check_run(run, path)
    return study


def check_run(run: StudyRun, path: Path) -> None:
    """Raises UserError, naming the study's file, for settings that `phf train` or `phf eval` would refuse."""
    try:
        if run.trains:
            build_objective(resolve_train([Source(f"{path}: systems.{run.system}", run.training())]))
        resolve(EvalConfig, [Source(f"{path}: eval", run.evaluation())])
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: systems.{run.system}: {error}") from None


def runs_of(study: Study) -> list[StudyRun]:
    """The runs of the tables, seed by seed over all systems, so that a stopped study has complete seeds."""
    seeds = {name: system.seeds or study.seeds for name, system in study.systems.items()}
    runs = [StudyRun(study, model, BASE) for model in study.models]
    for seed in range(max(seeds.values())):
        runs += [StudyRun(study, model, name, seed) for model in study.models for name in seeds if seed < seeds[name]]
    return runs


@dataclass(frozen=True)
class Part:
    """The part of a study to run, by default the whole. The base model belongs to every part.

    Attributes:
        only: the names of the systems; empty means all.
        seeds: the number of first seeds; None means all.
    """

    only: frozenset[str] = frozenset()
    seeds: int | None = None

    def has(self, run: StudyRun) -> bool:
        """Whether a run of the tables belongs to the part."""
        return run.system == BASE or (
            (not self.only or run.system in self.only) and (self.seeds is None or run.seed < self.seeds)
        )

    def searches(self, study: Study) -> list[StudyRun]:
        """The runs of the search that decide the learning rates of this part."""
        families = {study.systems[run.system].family for run in runs_of(study) if run.trains and self.has(run)}
        return [run for run in search_runs(study) if study.systems[run.system].family in families]


WHOLE = Part()


def search_runs(study: Study) -> list[StudyRun]:
    """The short runs that decide each family's learning rate: its first system, with the first seed."""
    if study.search is None:
        return []
    return [
        StudyRun(study, model, first_of(study, family), 0, rate, searching=True)
        for model in study.models
        for family, rates in study.search.rates.items()
        for rate in rates
        if len(rates) > 1
    ]


def first_of(study: Study, family: str) -> str:
    """The system that represents a family in the search. Raises UserError for a family without a system."""
    system = next((name for name, system in study.systems.items() if system.family == family), None)
    if system is None:
        raise UserError(f"search.rates.{family}: none of the systems is of this family")
    return system
