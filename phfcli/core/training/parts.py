"""The parts of a training run, and the step it has reached."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.grading import Grader, Grading
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import Prompts
from phfcli.core.objectives.contract import Objective
from phfcli.core.objectives.teachers import Teacher
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.runs.problems import Curriculum
from phfcli.core.training.alarms import Alarms
from phfcli.core.training.metrics import Phases
from phfcli.core.training.ranks import ALONE, Ranks
from phfcli.core.training.validation import Validation
from phfcli.core.types import Completion, Request

Draw = Callable[[Sequence[Request]], list[Completion]]
Drawn = dict[int, Completion]  # by what was asked for


class Ahead:
    """Holds at most one step's rollouts, finished or under way.

    Attributes:
        staleness: updates between the weights that drew the rollouts taken last and the weights that train on them.
    """

    def __init__(self) -> None:
        self.staleness = 0
        self._future: Future[Drawn] | None = None

    def start(self, requests: Sequence[Request], draw: Draw, beside: bool) -> None:
        """Draws for the next step: `beside` what follows, or at once if the engine shares the model that trains."""
        assert self._future is None

        def work() -> Drawn:
            return {_key(request): one for request, one in zip(requests, draw(requests), strict=True)}

        if beside:
            thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
            self._future = thread.submit(work)
            thread.shutdown(wait=False)
        else:
            self._keep(work())

    def take(self, requests: Sequence[Request]) -> list[Completion] | None:
        """What was drawn for these very requests, once; None where something else was drawn, or nothing."""
        drawn = self._drawn()
        self._future = None
        keys = [_key(request) for request in requests]
        known = bool(keys) and all(key in drawn for key in keys)
        self.staleness = int(known)
        return [drawn[key] for key in keys] if known else None

    def finish(self) -> None:
        """Waits for what is under way: the engine is free then."""
        self._drawn()

    def state(self, ranks: Ranks) -> dict[str, Tensor]:
        """The rollouts of all ranks as tensors; nothing where there are none."""
        drawn = ranks.gather(list(self._drawn().items()))
        if not drawn:
            return {}
        ones = [one for _, one in drawn]
        return {
            "requests": torch.tensor([key for key, _ in drawn]),  # [R]
            "lengths": torch.tensor([len(one.ids) for one in ones]),  # [R]
            "stopped": torch.tensor([one.whole for one in ones]),  # [R]
            "ids": torch.tensor([token for one in ones for token in one.ids], dtype=torch.int32),  # [N]
            "logprobs": torch.tensor([value for one in ones for value in one.logprobs], dtype=torch.float64),  # [N]
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes what a checkpoint has kept; each rank later finds its own among it."""
        self._future = None
        if state:
            lengths = state["lengths"].tolist()
            parts = zip(state["ids"].split(lengths), state["logprobs"].split(lengths), state["stopped"], strict=True)
            ones = [
                Completion(tuple(ids.tolist()), tuple(logprobs.tolist()), "stop" if stopped else "length")
                for ids, logprobs, stopped in parts
            ]
            self._keep(dict(zip(state["requests"].tolist(), ones, strict=True)))

    def _keep(self, drawn: Drawn) -> None:
        self._future = Future()
        self._future.set_result(drawn)

    def _drawn(self) -> Drawn:
        """Raises what the engine has raised."""
        return {} if self._future is None else self._future.result()


def _key(request: Request) -> int:
    """Tells a request from any other in 63 bits, whatever rank asks."""
    digest = hashlib.sha256(f"{request.seed} {request.prompt_ids}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass
class TrainingParts:
    """Everything a step needs; `model` is the student.

    With several ranks each has parts of its own. They do the same but for their share of the samples, and only the main
    one writes.
    """

    config: TrainConfig
    folder: Path
    model: LanguageModel
    teacher: Teacher
    objective: Objective
    engine: TrainingEngine
    prompts: Prompts
    curriculum: Curriculum
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    ranks: Ranks = ALONE
    grader: Grading = field(default_factory=Grader)  # its workers start when there is something to grade
    validation: Validation | None = None
    step: int = 0  # completed
    saved: int = 0  # the last step that this process has made a checkpoint of
    samples: Sequence[Sample] = ()  # of the completed step, this rank's
    notes: Sequence[str] = ()  # what is shown at the start, a line each
    base: Teacher | None = None  # the model before any training, where the objective needs it
    warnings: Sequence[str] = ()  # what somebody who starts the run should act on, a sentence each
    ahead: Ahead = field(default_factory=Ahead)  # rollouts of the step to come
    alarms: Alarms = field(default_factory=Alarms)
    phases: Phases = field(default_factory=Phases)  # of the present step, timed
    stopping: bool = False  # may be set at any moment, by a signal's handler say
