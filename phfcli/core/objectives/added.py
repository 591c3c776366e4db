"""An objective of another package: what it raises, or gives that the loop cannot use, is told as its own mistake."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError, first_line
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.names import MACHINE_METRICS
from phfcli.core.objectives.contract import LossTerms, Needs, Objective, Term

_COUNTS: tuple[str, ...] = get_args(get_type_hints(Term)["per"])
_STEP_FIGURES = ("step", "loss", "grad_norm", "lr", "padding", "entropy", *MACHINE_METRICS)
_PACKAGE = str(Path(__file__).parents[3])


class AddedObjective:
    """Hands through what an added objective needs and its loss, once they are what the contract asks for."""

    def __init__(self, name: str, objective: Objective) -> None:
        self._name, self._objective = name, objective

    @property
    def needs(self) -> Needs:
        return self._objective.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        """Raises UserError where the objective fails, reads what it has not asked for, or cannot be added up."""
        if self.needs.layers == ():
            student, teacher = _without_states(student), teacher and _without_states(teacher)
        with _told(self._name, _absent(self.needs)):
            terms = self._objective.loss(student, teacher, batch)
        if wrong := _wrong_terms(terms):
            raise UserError(f"objective {self._name}: {wrong}")
        return terms


def build_added(name: str, build: Callable[[TrainConfig], Any], config: TrainConfig) -> Objective:
    """The objective that a function of another package builds.

    Raises:
        UserError: where it fails, or what it returns has no needs and no loss.
    """
    with _told(name):
        objective = build(config)
    if not isinstance(getattr(objective, "needs", None), Needs) or not callable(getattr(objective, "loss", None)):
        raise UserError(
            f"objective {name}: its build function returned {type(objective).__name__}; an objective has `needs`, a "
            "Needs, and a method `loss`"
        )
    return AddedObjective(name, objective)


class _UnaskedStates(Tensor):
    """States of no layer, with which nothing can be computed: their mean, say, would be no number."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise UserError(
            "its loss reads the states of student or teacher, and its needs ask for none: set layers, as in "
            "Needs(layers='all')"
        )


def _without_states(read: Pass) -> Pass:
    return replace(read, states=read.states.as_subclass(_UnaskedStates))


def _absent(needs: Needs) -> str:
    """What is None because the objective has not asked for it, as a hint with the fields of Needs."""
    absent = {
        "teacher (teacher=True)": not needs.teacher,
        "batch.base (base=True)": not needs.base,
        "student.lens (lens=0)": needs.lens is None,
        "student.final (layers='last')": needs.layers == (),
    }
    return f"; its needs leave these None: {', '.join(name for name, left_out in absent.items() if left_out)}"


@contextmanager
def _told(name: str, absent: str = "") -> Iterator[None]:
    """Turns what foreign code raises into one line with its place; memory that is not there is no mistake of its.

    absent: a hint for whoever reads a field of None.
    """
    try:
        yield
    except UserError as error:
        told = str(error)
        raise error if told.startswith("objective ") else UserError(f"objective {name}: {told}") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without this one
        foreign = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
        place = f" ({foreign[0].filename}, line {foreign[0].lineno})" if foreign else ""
        hint = absent if "NoneType" in str(error) else ""
        raise UserError(f"objective {name}: {type(error).__name__}: {first_line(error)}{place}{hint}") from error


def _wrong_terms(terms: Any) -> str | None:
    """What the loop cannot use of a loss, as the rest of a sentence."""
    if not isinstance(terms, LossTerms) or not terms.terms:
        return f"loss returned {type(terms).__name__}; it returns LossTerms with at least one term"
    for name, term in dict[str, Any](terms.terms).items():
        if not isinstance(term, Term) or not isinstance(term.total, Tensor) or term.total.numel() != 1:
            return f"the term {name!r} is not a Term whose total is one number"
        if term.per not in _COUNTS:
            return f"the term {name!r} is per {term.per!r}; choose from {', '.join(_COUNTS)}"
    if torch.is_grad_enabled() and not any(term.total.requires_grad for term in terms.terms.values()):
        return "no term has a gradient; compute them from student.hidden or student.states"
    for name, pair in dict[str, Any](terms.metrics).items():
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
            return f"the metric {name!r} is not a pair (sum, count) of tensors"
        if name in _STEP_FIGURES:
            return f"the metric {name!r} has the name of a figure that each step has; choose another"
    return None
