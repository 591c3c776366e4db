"""The parts of a training run, and the step it has reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from phfcli.core.config import TrainConfig
from phfcli.core.grading import Grader, Grading
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample
from phfcli.core.models.prompts import Prompts
from phfcli.core.objectives.contract import Objective
from phfcli.core.objectives.teachers.contract import Teacher
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.runs.training_data import Curriculum
from phfcli.core.training.distributed import ALONE, Ranks
from phfcli.core.training.health.alarms import Alarms
from phfcli.core.training.metrics import Phases
from phfcli.core.training.samples.ahead import Ahead
from phfcli.core.training.validation import Validation


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
