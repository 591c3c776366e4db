"""What others add is found by its name: registered by a program, or named by an installed package."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from phfcli.core import extensions
from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import OwnBenchmark, load_benchmark
from phfcli.core.grading import Grade, Status, build_grader
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Needs
from phfcli.core.settings import option_source, resolve

KINDS: tuple[extensions.Kind, ...] = get_args(extensions.Kind)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    for added in extensions._registered.values():
        added.clear()
    sys.modules.pop("mine", None)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that adds one of each kind that can be loaded, and one that cannot."""
    (tmp_path / "mine.py").write_text("def build(config):\n    return 'built'\n")
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    groups = (f"[phfcli.{kind}]\nmine = mine:build\nbroken = mine:gone\n" for kind in KINDS)
    (about / "entry_points.txt").write_text("".join(groups))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_an_installed_package_adds_an_objective() -> None:
    config = resolve(TrainConfig, [option_source("--objective", "objective", "mine")])
    build = extensions.find("objectives", config.objective)
    assert build is not None
    assert build(config) == "built"
    assert "mine" in extensions.names("objectives")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_adds_one_of_each_kind(kind: extensions.Kind) -> None:
    build = extensions.find(kind, "mine")
    assert build is not None
    assert build(None) == "built"
    assert "mine" in extensions.names(kind)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_cannot_be_loaded_is_named(kind: extensions.Kind) -> None:
    with pytest.raises(UserError, match="broken: mine:gone cannot be loaded"):
        extensions.find(kind, "broken")


def test_an_unknown_name_is_answered_with_the_nearest_added_one() -> None:
    extensions.register("engines", "served", object())
    with pytest.raises(UserError, match="'serve' is unknown; did you mean 'served'"):
        resolve(EvalConfig, [option_source("--engine", "engine", "serve")])


def test_our_own_names_are_taken() -> None:
    with pytest.raises(UserError, match="grpo: one of phf's own objectives has this name"):
        extensions.register("objectives", "grpo", object(), taken=("grpo",))


def test_a_benchmark_names_its_grader() -> None:
    extensions.register("benchmarks", "capitals", OwnBenchmark(lambda: [{"problem": "p", "answer": "Rome"}], "city"))
    bench = load_benchmark("capitals", EvalConfig())
    assert (bench.grader, bench.problems[0].answer) == ("city", "Rome")


def test_a_rule_grades_and_its_failure_is_no_wrong_answer() -> None:
    def city(gold: str, completion: str) -> Grade:
        word = completion.split()[-1]
        return Grade(Status.correct if word == gold else Status.wrong, word)

    extensions.register("graders", "city", city)
    with build_grader("city") as grader:
        grades = grader.grade([("Rome", "it is Rome"), (("Bern", "Rome"), "Rome"), ("Rome", "Paris"), ("Rome", "")])
        assert [grade.status for grade in grades] == ["correct", "correct", "wrong", "error"]
        assert grader.equivalence_classes(["a", None, "b", "a"]) == [0, None, 1, 0]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda _gold, _completion: "yes", "gives 'yes' for an answer"),
        (lambda _gold, _completion: None, "gives None for an answer"),
        (lambda _gold, _completion: 0.7, "gives 0.7 for an answer"),
        (lambda _gold, _completion: 1 // 0, "ZeroDivisionError"),
        (lambda _gold: True, "takes 1 positional argument"),
    ],
)
def test_a_rule_that_cannot_judge_is_told_before_a_sample_is_drawn(rule: object, reason: str) -> None:
    extensions.register("graders", "city", rule)
    with build_grader("city") as grader, pytest.raises(UserError, match=f"grader city: .*{reason}"):
        grader.check_golds(["Rome"])


@pytest.mark.parametrize("given", [5, object, Needs()])
def test_what_a_plugin_builds_has_the_members_of_its_kind(given: object) -> None:
    extensions.register("objectives", "mine", lambda _config: given)
    config = resolve(TrainConfig, [option_source("--objective", "objective", "mine")])
    with pytest.raises(UserError, match=r"objective mine: gives .*, which is no Objective"):
        build_objective(config)


@pytest.mark.parametrize("given", [7, [1, 2]])
def test_a_benchmark_gives_rows(given: object) -> None:
    extensions.register("benchmarks", "mine", OwnBenchmark(lambda: given))  # type: ignore[arg-type,return-value]
    with pytest.raises(UserError, match=r"benchmark mine: gives int, which is no (Iterable|Mapping)"):
        load_benchmark("mine", EvalConfig())
