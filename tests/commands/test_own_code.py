"""FILE.py:NAME: an objective, a grader and a benchmark from a file, whose code only somebody who names it may run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Done

from phfcli.core import extensions
from phfcli.core.errors import UserError

FILE = """
from pathlib import Path

from phfcli.core.objectives.contract import LossTerms, Needs, Term

Path(__file__).with_name("was run").touch()


class Own:
    needs = Needs()

    def loss(self, student, teacher, batch):
        return LossTerms({"size": Term(student.hidden.square().mean(-1).sum(), per="tokens")})


def build(config):
    return Own()


def contains(gold, completion):
    return gold in completion


def rows():
    return [{"problem": f"Start with {n}, add 8.", "answer": n + 8} for n in (1, 12)]
"""
SMALL = ("--set", "batch_size=2", "--set", "rollout.max_new_tokens=8", "--set", "flow.saved_samples=0", "--quiet")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    yield path
    forget()


def forget() -> None:
    """As a new process would begin."""
    extensions._trusted.clear()
    for kind in ("objectives", "graders", "benchmarks"):
        extensions._registered[kind].clear()  # type: ignore[index]


@pytest.mark.slow
def test_a_run_by_an_objective_in_a_file_goes_on_with_that_code_alone(file: Path, phf: Callable[..., Done]) -> None:
    assert phf("train", "--objective", "mine.py:build", "--steps", 1, *SMALL).code == 0
    more = ("train", "--resume", "--output-dir", "runs/mine-build-embedded-seed0", "--quiet")
    forget()
    assert phf(*more, "--steps", 2).code == 0
    file.write_text(FILE + "\n")
    file.with_name("was run").unlink()
    forget()
    done = phf(*more, "--steps", 3)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "mine.py:build: is code that only a record names, or that has changed since" in done.err
    assert not file.with_name("was run").exists()
    done = phf(*more, "--steps", 3, "--objective", "mine.py:build")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "its code is not that which the run began with" in done.err
    assert phf(*more, "--steps", 3, "--objective", "mine.py:build", "--force").code == 0


def test_a_benchmark_and_a_grader_in_a_file(file: Path, phf: Callable[..., Done]) -> None:
    done = phf("eval", "embedded", "--bench", f"{file}:rows", "--grader", "mine.py:contains", "--n", 1, "--json", "-q")
    (summary,) = done.json["benches"]
    assert (summary["bench"], summary["problems"]) == ("mine-rows", 2)
    settings = json.loads((Path(summary["folder"]) / "settings.json").read_text())
    assert settings["grader"] == f"{file}:contains"
    assert set(settings["code"]) == {f"benchmark {file}:rows", f"grader {file}:contains"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.py:contains", "there is no file nowhere.py"),
        ("mine.py:contians", "the file defines no such name; did you mean 'contains'?"),
        ("broken.py:contains", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("mine.py", "'mine.py' is unknown; choose from choice, math, or FILE.py:NAME"),
        ("mine.txt:contains", "is unknown"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_in_a_line(
    name: str, says: str, file: Path, phf: Callable[..., Done]
) -> None:
    file.with_name("broken.py").write_text("1 / 0")
    done = phf("eval", "embedded", "--grader", name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err


def test_code_that_nobody_has_named_is_not_run(file: Path) -> None:
    """Neither that of a record, nor that of a run's own folder whatever its hash."""
    spec = f"{file}:contains"
    codes = extensions.code_of([("graders", spec)])
    extensions.trust_unchanged([("graders", spec)], codes, file.parent)
    with pytest.raises(UserError, match="only a record names"):
        extensions.find("graders", spec)
    extensions.trust_unchanged([("graders", spec)], {f"grader {spec}": "0"}, file.parent / "run")
    with pytest.raises(UserError, match="only a record names"):
        extensions.find("graders", spec)
    assert not file.with_name("was run").exists()
    extensions.trust_unchanged([("graders", spec)], codes, file.parent / "run")
    assert extensions.find("graders", spec)("9", "it is 9") is True


def test_a_recipe_that_is_called_by_name_cannot_bring_code() -> None:
    from phfcli.core.settings import file_sources

    file_sources(["embedded"])
    assert not extensions._trusted
