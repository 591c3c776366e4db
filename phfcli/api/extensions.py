"""Registers plugins: objectives, teachers, engines, benchmarks, graders, trackers. See docs/extending.md."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phfcli.api.arguments import checks_arguments
from phfcli.core.extensions import register
from phfcli.core.names import ENGINES, GRADERS, TEACHERS, TRACKERS
from phfcli.core.shipped_files import objectives

if TYPE_CHECKING:
    from phfcli.core.config import TrainConfig
    from phfcli.core.grading import Rule
    from phfcli.core.models.language_model import LanguageModel
    from phfcli.core.objectives.contract import Objective
    from phfcli.core.objectives.teachers import Teacher
    from phfcli.core.rollouts.engine import Engine, Serving
    from phfcli.core.training.trackers import Tracker


@checks_arguments
def register_objective(name: str, build: "Callable[[TrainConfig], Objective]") -> None:
    """Adds an objective, for `train(objective=name)`. `build` makes it from the settings of a run."""
    register("objectives", name, build, taken=objectives())


@checks_arguments
def register_teacher(name: str, build: "Callable[[TrainConfig, LanguageModel], Teacher]") -> None:
    """Adds a teacher, for `train(teacher=name)`. `build` makes it from the settings and the student."""
    register("teachers", name, build, taken=TEACHERS)


@checks_arguments
def register_engine(name: str, build: "Callable[[Serving], Engine]") -> None:
    """Adds a rollout engine, for `train` and `evaluate(engine=name)`.

    `build` makes it from the model that it serves. An engine for training also has `update(model)`; before the first
    step it has to show that its samples follow the weights.
    """
    register("engines", name, build, taken=ENGINES)


@checks_arguments
def register_benchmark(
    name: str, rows: Callable[[], Iterable[Mapping[str, Any]]], grader: "Rule | str | None" = None
) -> None:
    """Adds a benchmark, for `evaluate(run, bench=name)`.

    rows: returns its rows, mappings with `problem` and `answer`; called when the benchmark is evaluated.
    grader: a rule that grades it, or the name of one; None is the grader for mathematics.
    """
    from phfcli.core.evaluation.benchmarks import OWN_NAMES, OwnBenchmark

    if callable(grader):
        register_grader(name, grader)
        grader = name
    register("benchmarks", name, OwnBenchmark(rows, grader), taken=OWN_NAMES)


@checks_arguments
def register_grader(name: str, rule: "Rule") -> None:
    """Adds a grader, for `config={"grader": name}`: a rule from a gold answer and a whole completion to a `Grade`."""
    register("graders", name, rule, taken=GRADERS)


@checks_arguments
def register_tracker(name: str, build: "Callable[[Path], Tracker]") -> None:
    """Adds a tracker, for `train(report_to=[name])`. `build` makes it from the folder of the run."""
    register("trackers", name, build, taken=TRACKERS)
