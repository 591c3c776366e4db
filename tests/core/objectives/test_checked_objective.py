"""What an objective of another package does wrong is told in one line that names it and the place."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from phfcli.core import extensions
from phfcli.core.errors import UserError
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms as Terms
from phfcli.core.objectives.contract import Needs, Term
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import build_trainer

Loss = Callable[[Pass], Any]


@dataclass
class Added:
    """An objective whose loss is whatever a test says."""

    of: Loss
    needs: Needs = field(default_factory=lambda: Needs(layers="all"))

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> Any:
        return self.of(student)


def size(student: Pass) -> torch.Tensor:
    return student.hidden.square().mean(-1).sum()


def steps(build: Any, folder: Path) -> list[dict[str, Any]]:
    extensions.register("objectives", "added", build)
    settings = ["objective=added", "steps=1", "batch_size=2", "rollout.max_new_tokens=8"]
    try:
        return list(build_trainer(resolve_train(set_sources(settings)), folder, fresh=True).train())
    finally:
        extensions._registered["objectives"].clear()


def test_a_sound_one_trains(tmp_path: Path) -> None:
    one = Added(lambda s: Terms({"size": Term(size(s), per="tokens")}, {"size": (size(s).detach(), torch.tensor(1))}))
    (step,) = steps(lambda _config: one, tmp_path)
    assert step["loss"] > 0
    assert step["size"] > 0


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            lambda s: s.statez,
            r"AttributeError: 'Pass' object has no attribute 'statez' \(.*test_checked_objective.py, line",
        ),
        (lambda _: None, "loss returned NoneType; it returns LossTerms with at least one term"),
        (lambda _: Terms({}), "loss returned LossTerms; it returns LossTerms with at least one term"),
        (lambda s: Terms({"x": size(s)}), "the term 'x' is not a Term whose total is one number"),
        (lambda s: Terms({"x": Term(s.hidden, per="tokens")}), "the term 'x' is not a Term whose total is one number"),
        (
            lambda s: Terms({"x": Term(size(s), per="sample")}),
            "the term 'x' is per 'sample'; choose from tokens, samples",
        ),
        (lambda s: Terms({"x": Term(size(s).detach(), per="tokens")}), "no term has a gradient; compute them from"),
        (
            lambda s: Terms({"x": Term(size(s), per="tokens")}, {"y": size(s)}),
            r"the metric 'y' is not a pair \(sum, count",
        ),
        (
            lambda s: Terms({"x": Term(size(s), per="tokens")}, {"y": (1.0, 2)}),
            r"the metric 'y' is not a pair \(sum, count\) of tensors",
        ),
        (
            lambda s: Terms({"x": Term(size(s), per="tokens")}, {"loss": (size(s), size(s))}),
            "the metric 'loss' has the name of a figure that each step has; choose another",
        ),
    ],
)
def test_a_loss_that_cannot_be_used_is_told(loss: Loss, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^objective added: {words}"):
        steps(lambda _config: Added(loss), tmp_path)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda s: s.states.square().mean(), "its loss reads the states of student or teacher, and its needs ask for"),
        (lambda s: s.hidden.sum() / s.states.shape[0], "its loss reads the states of student or teacher, and its"),
        (
            lambda s: s.final.sum(),
            r"AttributeError: 'NoneType' .*; its needs leave these None: .*student.final \(layers",
        ),
        (
            lambda s: s.lens.hidden.sum(),
            r"AttributeError: 'NoneType' .*; its needs leave these None: .*lens \(lens=0\)",
        ),
        (lambda s: s.hidden.detach().requires_grad_().sum(), "no gradient of its loss reaches a weight that trains"),
        (lambda _: torch.ones(1, requires_grad=True).sum(), "no gradient of its loss reaches a weight that trains"),
    ],
)
def test_a_field_that_was_not_asked_for_and_a_loss_that_teaches_nothing_are_told(
    loss: Loss, words: str, tmp_path: Path
) -> None:
    one = Added(lambda s: Terms({"x": Term(loss(s), per="tokens")}), Needs())
    with pytest.raises(UserError, match=f"^objective added: {words}"):
        steps(lambda _config: one, tmp_path)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: None, "TypeError: .* takes 0 positional arguments but 1 was given"),
        (lambda _config: 3, "its build function returned int; an objective has `needs`"),
    ],
)
def test_a_build_function_that_cannot_be_used_is_told(build: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^objective added: {words}"):
        steps(build, tmp_path)
    assert not list(tmp_path.iterdir())
